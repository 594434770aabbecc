@tool
@icon("res://addons/everscene/icons/stream.svg")
class_name EversceneStream
extends Node
## A live, generated world: connects to the Everscene sidecar, sends it events and prompts, and
## fills every [EversceneTexture] of its name with the frames that come back.
##
## Add the node, give a [TextureRect] an EversceneTexture, run [code]everscene serve[/code], play.
## Sockets, the frame ring and decoding are on a thread of their own; the main thread only
## updates textures and emits signals.
## [codeblock]
## var receipt := $EversceneStream.send_event("storm", {"intensity": 0.8})
## await receipt.wait()
## [/codeblock]

## The sidecar answered: [member model], [member scene] and the rest are known.
signal connected
## The connection broke, or ended. The stream tries again by itself.
signal disconnected(reason: String)
## A new frame is in the texture.
signal frame_received(texture: EversceneTexture, frame: EversceneFrame)
## One of our events, prompts or slots shows from [member EversceneReceipt.frame] on.
signal event_applied(receipt: EversceneReceipt)
## Something went wrong. [param reason] is a sentence for a person.
signal error(code: String, reason: String)
## The prompt under which frames are generated is another now.
signal prompt_changed(prompt: String)
## The sidecar's state is another now: starting, live, slow, stalled, restarting, paused, closing.
signal state_changed(state: String, reason: String)
## The events and slots that the sidecar takes are others now.
signal scene_changed(scene: Dictionary)
## Somebody's event, prompt or slots were accepted: ours, or another client's.
signal input_seen(input: Dictionary)
## Answer to [method request_stats]: the message `stats` of docs/protocol.md.
signal stats_received(stats: Dictionary)

enum Playback {
	NEWEST,  ## Each frame as soon as it is there. Least delay.
	IN_ORDER,  ## Every frame, each at its own time. Smoother, and [member delay_frames] later.
}
enum FramesFrom {
	AUTO,  ## Shared memory; where that cannot be opened, the network.
	RING,  ## Shared memory only.
	RAW,  ## The network, uncompressed.
	JPEG,  ## The network, as JPEG.
}

const VERSION := "0.1.0"
const GROUP := &"everscene_streams"
const Client := preload("core/client.gd")
const Endpoint := preload("core/endpoint.gd")
const FrameSource := preload("core/frame_source.gd")
const Msgpack := preload("core/msgpack.gd")
const Sidecar := preload("core/sidecar.gd")

const _POLL_USEC := 1000
const _POLL_OFFLINE_USEC := 5000
const _SHOWN_KEPT := 64
const _SIDECAR_CHECK_MS := 500

## Names of the events of the scene that was last seen, for the editor's suggestions.
static var known_events := PackedStringArray()

## Where the sidecar listens: tcp://HOST:PORT, as `everscene serve` prints it.
@export var endpoint := "tcp://127.0.0.1:7464"
## The sidecar's token, if it wants one. Do not save a real one in a scene: set it from code.
@export var token := ""
## Our name, as others see it.
@export var client_name := ""
## Every [EversceneTexture] with this name shows this stream.
@export var stream_name: StringName = &"main"
## Connect as soon as the game runs.
@export var auto_connect := true
@export_group("Playback")
## How frames are chosen when the game and the stream run at different rates.
@export var playback := Playback.NEWEST
## With IN_ORDER: by how many frames the picture is delayed, to even out their coming.
@export_range(0, 6) var delay_frames := 2
## How the frames travel.
@export var frames_from := FramesFrom.AUTO
## Read sockets and frames on a thread of their own. Off: on the main thread, in _process.
@export var use_thread := true
@export_group("Sidecar")
## Start the sidecar when nobody answers at [member endpoint], and stop it with the game.
@export var launch_sidecar := false
## The program to start.
@export_global_file var sidecar_command := "everscene"
## Its arguments; --control-port is added when the endpoint names another port than 7464.
@export var sidecar_arguments := PackedStringArray(["serve", "--model", "pocket"])

## The first texture with our name; made when there is none.
var texture: EversceneTexture:
	get:
		var textures := EversceneTexture.of(stream_name)
		if not textures.is_empty():
			return textures[0]
		_own_texture = EversceneTexture.new()
		_own_texture.stream = stream_name
		return _own_texture
## True between [signal connected] and [signal disconnected].
var is_live := false
## What the sidecar said at the start: the message `welcome` of docs/protocol.md.
var info := {}
## Name of the model that runs.
var model := ""
## What the sidecar takes: {name, events: [{name, label, group, when, for_s, params}],
## slots: [{name, default, choices}]}. A slot without choices takes any words.
var scene := {"name": "", "events": [], "slots": []}
## The prompt under which the latest frames are generated.
var prompt := ""
## The sidecar's state, as in [signal state_changed].
var state := ""
## The latest frame in the texture, or null.
var frame: EversceneFrame
## Latency of the latest of our events that was applied, in milliseconds; −1 = none yet.
var latency_ms := -1.0
## Time that the latest _process took on the main thread, in microseconds.
var cost_usec := 0

var _client: Client
## What a client told and nobody was told yet, oldest first.
var _news: Array[Dictionary] = []
## Connect when the node comes into the tree again: it was connected when it left.
var _comes_back := false
var _was_in_tree := false
var _thread: Thread
var _stop := false
var _sidecar: Sidecar
var _sidecar_checked_ms := 0
var _own_texture: EversceneTexture
var _next_id := 1
var _receipts := {}
var _shown := {}
var _unseen: Array[int] = []


func _notification(what: int) -> void:
	match what:
		NOTIFICATION_POST_ENTER_TREE:  # As _ready, but each time.
			_come_in()
		NOTIFICATION_PREDELETE:
			disconnect_from_server()
			if _sidecar != null:
				_sidecar.stop()


func _enter_tree() -> void:
	add_to_group(GROUP)


func _exit_tree() -> void:
	var was_connected := _client != null
	disconnect_from_server()
	_comes_back = was_connected


func _process(_delta: float) -> void:
	if _client == null:
		return
	var began := Time.get_ticks_usec()
	if _thread == null:
		_client.poll()
	var client := _client
	_news.append_array(client.take_news())
	_obey_news()
	if _client != client:
		return  # Somebody who heard the news disconnected, or connected anew.
	var next := _client.take_frame()
	if next != null:
		_show(next)
	if _sidecar != null and not is_live:
		_look_after_sidecar()
	cost_usec = Time.get_ticks_usec() - began


func _get_configuration_warnings() -> PackedStringArray:
	var warnings := PackedStringArray()
	if not endpoint.begins_with("tcp://"):
		warnings.append("The endpoint must look like tcp://127.0.0.1:7464.")
	if stream_name.is_empty():
		warnings.append("Without a stream name no EversceneTexture can find this stream.")
	elif is_inside_tree():
		for other: Node in get_tree().get_nodes_in_group(GROUP):
			if other != self and other.owner == owner and other.stream_name == stream_name:
				warnings.append("Another EversceneStream is also named %s." % stream_name)
	return warnings


## The stream named [param wanted] in the tree of [param node], or the first one for an empty name.
static func find(node: Node, wanted: StringName = &"") -> EversceneStream:
	for candidate: Node in node.get_tree().get_nodes_in_group(GROUP):
		if wanted.is_empty() or candidate.stream_name == wanted:
			return candidate
	return null


## Connects, or connects anew with the present [member endpoint] and [member token].
func connect_to_server() -> void:
	disconnect_from_server()
	var source := FrameSource.new(frames_from as int, playback as int, delay_frames)
	var shown_name := client_name
	if shown_name.is_empty():
		shown_name = ProjectSettings.get_setting("application/config/name", "godot")
	_client = Client.new(endpoint, token, shown_name, VERSION, source)
	_stop = false
	if use_thread:
		_thread = Thread.new()
		_thread.start(_run.bind(_client))


## Ends the connection. Receipts that are open end as rejected.
func disconnect_from_server() -> void:
	_comes_back = false
	var last := _client
	_client = null
	if last != null:
		_stop = true
		if _thread != null:
			_thread.wait_to_finish()
			_thread = null
		else:
			last.close()
		_news.append_array(last.take_news())
	_obey_news()
	if is_live:
		_go_offline("closed")


## Sends the event [param event_name] of [member scene]. [param params] are bools, ints, floats or
## texts; [param when] is "now", "chunk" or "" (as the scene says).
func send_event(event_name: StringName, params: Dictionary = {}, when := "") -> EversceneReceipt:
	var message := {"type": "event", "name": str(event_name)}
	if not params.is_empty():
		message["params"] = params.duplicate()
	var receipt := _send_input(message, when)
	receipt.event = event_name
	return receipt


## Sends a whole prompt in place of the scene's. [param transition] is "recache", "text", "blend",
## "cut", "reset" or "" (recache). A blend takes [param blend_seconds] of content (0 = the server's
## default), with [param blend_ease] "cosine", "linear" or "" (cosine) and [param blend_path]
## "linear", "slerp" or "" (linear).
func send_prompt(
	text: String,
	transition := "",
	when := "",
	blend_seconds := 0.0,
	blend_ease := "",
	blend_path := ""
) -> EversceneReceipt:
	var message := {"type": "prompt", "text": text}
	_steer(message, transition, blend_seconds, blend_ease, blend_path)
	return _send_input(message, when)


## Puts words into slots of [member scene], as a fader does: [param words] are texts by the slot's
## name. The rest is as in [method send_prompt].
func send_slots(
	words: Dictionary,
	transition := "",
	when := "",
	blend_seconds := 0.0,
	blend_ease := "",
	blend_path := ""
) -> EversceneReceipt:
	var message := {"type": "slots", "slots": words.duplicate()}
	_steer(message, transition, blend_seconds, blend_ease, blend_path)
	return _send_input(message, when)


## Asks for numbers; they come with [signal stats_received].
func request_stats() -> void:
	if _client != null:
		_client.send({"type": "stats_request"})


## Where the frames come from now, for a person.
func frames_source() -> String:
	if _client == null or not is_live:
		return "–"
	return ["–", "shared memory", "network, raw", "network, JPEG"][_client.frames.source]


## Counts since the connection was made: received, shown or not: torn, missed, skipped.
func frame_counts() -> Dictionary:
	if _client == null:
		return {"received": 0, "torn": 0, "missed": 0, "skipped": 0}
	var source := _client.frames
	return {
		"received": source.received,
		"torn": source.torn,
		"missed": source.missed,
		"skipped": source.skipped,
	}


func _run(client: Client) -> void:
	while not _stop:
		client.poll()
		var is_on := client.phase == Client.Phase.LIVE or client.phase == Client.Phase.GREETED
		OS.delay_usec(_POLL_USEC if is_on else _POLL_OFFLINE_USEC)
	client.close()


## How the picture goes to the new prompt; what is left out stands for the server's defaults.
static func _steer(
	message: Dictionary, transition: String, seconds: float, ease_name: String, path: String
) -> void:
	if not transition.is_empty():
		message["transition"] = transition
	if seconds != 0.0:
		message["seconds"] = seconds
	if not ease_name.is_empty():
		message["ease"] = ease_name
	if not path.is_empty():
		message["path"] = path


func _send_input(message: Dictionary, when: String) -> EversceneReceipt:
	var receipt := EversceneReceipt.new()
	receipt.id = _next_id
	_next_id += 1
	message["id"] = receipt.id
	message["client_ns"] = _unix_ns()
	if not when.is_empty():
		message["when"] = when
	var problem := _why_not(message)
	if problem.is_empty():
		_receipts[receipt.id] = receipt
		_client.send(message)
	else:
		receipt.take({"state": "rejected", "code": problem[0], "reason": problem[1]})
		# Not before the caller had a chance to listen.
		receipt.announce.call_deferred()
	return receipt


## [code, reason] when [param message] cannot go out at all, else [].
func _why_not(message: Dictionary) -> Array:
	if _client == null:
		return ["not_connected", "not connected: call connect_to_server() first"]
	if not Msgpack.can_encode(message):
		return ["wrong_type", "values must be bools, ints, floats or texts"]
	if Msgpack.encode(message).size() > Client.Messages.MAX_MESSAGE_BYTES:
		return ["too_long", "a message may have %d bytes" % Client.Messages.MAX_MESSAGE_BYTES]
	return []


func _come_in() -> void:
	var is_first := not _was_in_tree
	_was_in_tree = true
	if _comes_back or (is_first and auto_connect and not Engine.is_editor_hint()):
		connect_to_server()


## A handler may disconnect, which obeys the rest: nothing is lost, and nothing comes after it.
func _obey_news() -> void:
	while not _news.is_empty():
		_obey(_news.pop_front())


func _obey(news: Dictionary) -> void:
	match news["kind"]:
		"connected":
			_go_online(news)
		"disconnected":
			_go_offline(news["reason"])
		"receipt":
			_settle(news)
		"error":
			if news["code"] == "not_connected":
				_launch()
			error.emit(news["code"], news["reason"])
		"prompt":
			# In order, frames are shown later than they are told of: their own prompts count alone.
			if playback == Playback.NEWEST:
				_set_prompt(news["text"])
		"state":
			state = news["state"]
			state_changed.emit(state, news.get("reason", ""))
		"scene":
			_set_scene(news["scene"])
		"input":
			input_seen.emit(news)
		"stats":
			stats_received.emit(news)


func _go_online(welcome: Dictionary) -> void:
	is_live = true
	info = welcome
	model = welcome["model"]
	prompt = welcome["prompt"]
	state = welcome["state"]
	_shown.clear()
	_unseen.clear()
	_set_scene(welcome["scene"])
	connected.emit()
	prompt_changed.emit(prompt)
	state_changed.emit(state, "")


func _go_offline(reason: String) -> void:
	is_live = false
	state = ""
	disconnected.emit(reason)


func _set_scene(new_scene: Dictionary) -> void:
	scene = new_scene
	known_events = PackedStringArray()
	for event: Dictionary in scene["events"]:
		known_events.append(event["name"])
	scene_changed.emit(scene)


func _set_prompt(text: String) -> void:
	if text != prompt:
		prompt = text
		prompt_changed.emit(prompt)


func _settle(message: Dictionary) -> void:
	var receipt: EversceneReceipt = _receipts.get(message["id"])
	if receipt == null:
		return
	receipt.take(message)
	if receipt.is_settled():
		_receipts.erase(receipt.id)
	if receipt.state == EversceneReceipt.State.APPLIED:
		latency_ms = receipt.latency_ms
		_unseen.append(receipt.frame)
		_report_seen()
		event_applied.emit(receipt)
	receipt.announce()


func _show(next: EversceneFrame) -> void:
	frame = next
	var textures := EversceneTexture.of(stream_name)
	if textures.is_empty():
		textures.append(texture)
	for shown in textures:
		shown.show_image(next.image)
	_shown[next.number] = _unix_ns()
	if _shown.size() > _SHOWN_KEPT:
		_shown.erase(_shown.keys()[0])
	if not _unseen.is_empty():
		_report_seen()
	_set_prompt(next.prompt)
	frame_received.emit(textures[0], next)


## Tells the sidecar when the first frame of each applied event was in the texture.
func _report_seen() -> void:
	if frame == null or _client == null:
		return
	for number: int in _unseen.duplicate():
		if number > frame.number:
			continue
		_unseen.erase(number)
		for shown_number: int in _shown:
			if shown_number >= number:
				_client.send({"type": "seen", "frame": number, "seen_ns": _shown[shown_number]})
				break


func _launch() -> void:
	if not launch_sidecar or _client == null or (_sidecar != null and _sidecar.is_running()):
		return
	var arguments := sidecar_arguments.duplicate()
	var port := Endpoint.new(endpoint, Client.DEFAULT_PORT).port
	if port != Client.DEFAULT_PORT:
		arguments.append_array(["--control-port", str(port)])
	if _sidecar == null:
		_sidecar = Sidecar.new()
		# A stream that was taken out of the tree and kept is not freed when the game ends.
		get_tree().root.tree_exiting.connect(_sidecar.stop)
	if not _sidecar.start(sidecar_command, arguments):
		error.emit("sidecar", _sidecar.failure)


func _look_after_sidecar() -> void:
	var now := Time.get_ticks_msec()
	if now - _sidecar_checked_ms < _SIDECAR_CHECK_MS:
		return
	_sidecar_checked_ms = now
	if _sidecar.has_ended():
		var line := " ".join([sidecar_command] + Array(sidecar_arguments))
		error.emit("sidecar", "the sidecar ended at once: try in a terminal: %s" % line)


func _unix_ns() -> int:
	return int(Time.get_unix_time_from_system() * 1e9)
