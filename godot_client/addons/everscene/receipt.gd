class_name EversceneReceipt
extends RefCounted
## What became of an event, a prompt or slots that you sent. Every one ends as applied, superseded
## or rejected; nothing is dropped in silence.
##
## [codeblock]
## var receipt := $EversceneStream.send_event("storm", {"intensity": 0.8})
## if await receipt.wait() == EversceneReceipt.State.APPLIED:
##     print("the storm shows from frame %d, %.0f ms later" % [receipt.frame, receipt.latency_ms])
## else:
##     print(receipt.reason)
## [/codeblock]

## The server took it: it is on its way into the picture.
signal accepted
## The receipt reached its end: see [member state].
signal settled

enum State {
	SENT,  ## On its way to the server.
	ACCEPTED,  ## The server took it.
	APPLIED,  ## The picture shows it from [member frame] on.
	SUPERSEDED,  ## A later event or prompt took its place before a frame was generated under it.
	REJECTED,  ## It could not be done: [member code] and [member reason] say why.
}

## The id that it bears on the wire.
var id := 0
## Name of the event; empty for a prompt and for slots.
var event := ""
var state := State.SENT
## The server's own number for it, across all clients.
var order := 0
## First frame number generated under it (APPLIED).
var frame := 0
## Chunk number of that frame (APPLIED).
var chunk := 0
## Milliseconds from its arrival at the server to the publishing of that frame (APPLIED).
var latency_ms := 0.0
## The prompt in force from that frame on (APPLIED).
var prompt := ""
## [member order] of what took its place (SUPERSEDED).
var superseded_by := 0
## Short word for the reason (REJECTED): one of docs/protocol.md §8, or "not_connected" or "lost".
var code := ""
## The reason in a sentence (REJECTED).
var reason := ""


func is_settled() -> bool:
	return state >= State.APPLIED


## Waits until the receipt is settled and returns its state.
func wait() -> State:
	if not is_settled():
		await settled
	return state


## Takes over what the server's receipt message says; [method announce] then tells of it.
## [EversceneStream] calls both.
func take(message: Dictionary) -> void:
	order = message.get("order", order)
	match message.get("state", ""):
		"accepted":
			state = State.ACCEPTED
		"applied":
			state = State.APPLIED
			frame = message.get("frame", 0)
			chunk = message.get("chunk", 0)
			latency_ms = message.get("latency_ms", 0.0)
			prompt = message.get("prompt", "")
		"superseded":
			state = State.SUPERSEDED
			superseded_by = message.get("by", 0)
		"rejected":
			state = State.REJECTED
			code = message.get("code", "")
			reason = message.get("reason", "")


func announce() -> void:
	if is_settled():
		settled.emit()
	elif state == State.ACCEPTED:
		accepted.emit()
