extends RefCounted
## One client of the sidecar: hello, events, receipts, frames, and coming back after a break.
##
## It owns both sockets and all reading. [method poll] does the work, from a thread of its own or
## from the game's loop; [method send], [method take_news] and [method take_frame] may be called
## from any other thread meanwhile.

enum Phase { WAITING, CONNECTING, GREETED, LIVE, HALTED, CLOSED }

const Endpoint := preload("endpoint.gd")
const FrameSource := preload("frame_source.gd")
const Messages := preload("messages.gd")
const Msgpack := preload("msgpack.gd")
const ZmtpSocket := preload("zmtp_socket.gd")

const DEFAULT_PORT := 7464
const WELCOME_MS := 5000
const FIRST_RETRY_MS := 100
const LAST_RETRY_MS := 2000
## A message for a server that is not there waits this long before it is given up.
const OFFLINE_MS := 5000
const MAX_WAITING := 256
## What bears an id and gets receipts.
const INPUTS := ["event", "prompt", "slots"]
## Id of the ping whose answer comes after all receipts that the server names again.
const ALL_NAMED := -1

var phase := Phase.WAITING
var frames: FrameSource

var _endpoint: Endpoint
var _token := ""
var _hello := {}
var _control := ZmtpSocket.new()
var _msgpack := Msgpack.new()
var _epoch := 0
var _retry_ms := FIRST_RETRY_MS
var _at_ms := 0
var _told := ""
var _is_live_told := false
## Events, prompts and slots that no receipt has answered yet, by id: sent again after a break.
var _unanswered := {}
## Events, prompts and slots that were accepted and are not settled, by id.
var _open := {}
## Those of them that the server has not named again since the break.
var _unnamed := {}

var _mutex := Mutex.new()
var _outbox: Array[Dictionary] = []
var _news: Array[Dictionary] = []


## [param endpoint] is tcp://HOST:PORT, as `everscene serve` prints it.
func _init(
	endpoint: String, token: String, client_name: String, version: String, source: FrameSource
) -> void:
	_endpoint = Endpoint.new(endpoint, DEFAULT_PORT)
	_token = token
	frames = source
	var random := RandomNumberGenerator.new()
	random.randomize()
	_hello = {
		"type": "hello",
		"protocol": Messages.PROTOCOL,
		"client": client_name.left(64) if not client_name.is_empty() else "godot",
		"client_id": maxi(1, random.randi() << 31 | random.randi() >> 1),
		"language": Messages.LANGUAGE,
		"version": version,
	}


## Queues a message. Events, prompts and slots (which bear an `id`) get at least one receipt for
## certain: the server's, or one of our own that says why there is none.
func send(message: Dictionary) -> void:
	_mutex.lock()
	_outbox.append(message)
	_mutex.unlock()


## What happened since the last call, oldest first: maps with `kind`, one of connected,
## disconnected, receipt, error, stats, and the kinds of notice.
func take_news() -> Array[Dictionary]:
	_mutex.lock()
	var taken := _news
	if not taken.is_empty():
		_news = []
	_mutex.unlock()
	return taken


func take_frame() -> EversceneFrame:
	return frames.take_due()


func poll() -> void:
	_control.poll()
	var now := Time.get_ticks_msec()
	match phase:
		Phase.WAITING:
			if now >= _at_ms:
				phase = Phase.CONNECTING
				_control.open(_endpoint.host, _endpoint.port, "DEALER", "ROUTER", _token)
		Phase.CONNECTING:
			if _control.state == ZmtpSocket.State.READY:
				_say_hello(now)
			elif _control.state == ZmtpSocket.State.CLOSED:
				_break_off(_control.failure)
		Phase.GREETED:
			_read_control()
			if phase == Phase.GREETED and now - _at_ms > WELCOME_MS:
				_break_off("no welcome within %d s" % (WELCOME_MS / 1000))
		Phase.LIVE:
			_read_control()
			frames.poll()
			_pass_on_notices()
			for problem in frames.take_problems():
				_tell_error(problem["code"], problem["reason"])
	if phase == Phase.GREETED or phase == Phase.LIVE:
		if _control.state == ZmtpSocket.State.CLOSED:
			_break_off(_control.failure)
		elif phase == Phase.LIVE and not frames.lost.is_empty():
			_break_off(frames.lost)
	_empty_outbox(now)


## Says bye and ends. What was sent and has no receipt is settled as lost.
func close() -> void:
	_empty_outbox(Time.get_ticks_msec())
	if phase == Phase.LIVE:
		_control.send(Msgpack.encode({"type": "bye"}))
		_control.poll()
	_control.close()
	frames.close()
	phase = Phase.CLOSED
	_give_up(_unanswered, "not_connected", "the client was closed")
	_give_up(_open, "lost", "the client was closed before the server settled it")


func _say_hello(now: int) -> void:
	phase = Phase.GREETED
	_at_ms = now
	_control.send(Msgpack.encode(_hello))


func _read_control() -> void:
	while phase == Phase.GREETED or phase == Phase.LIVE:
		var parts := _control.take()
		if parts.is_empty():
			return
		var message: Variant = _msgpack.decode(parts[0])
		var type: Variant = message.get("type") if message is Dictionary else null
		if not type is String:
			_tell_error("not_msgpack", "the server sent bytes that are no message")
			continue
		if not Messages.is_known(type):
			continue
		var problem := Messages.problem(type, message)
		if not problem.is_empty():
			_tell_error("wrong_type", "the server sent a %s" % problem)
			continue
		_obey(type, message)


func _obey(type: String, message: Dictionary) -> void:
	match type:
		"welcome":
			_welcome(message)
		"refused":
			var reason: String = message["reason"]
			if message["code"] == "busy":
				_break_off(reason)
			else:
				_halt(message["code"], reason)
		"receipt":
			if _keep_account(message):
				_tell("receipt", message)
		"error":
			_take_error(message)
		"stats", "pong", "reply":
			if type == "pong" and message.get("id") == ALL_NAMED:
				_lose_unnamed()
			else:
				_tell(type, message)


func _welcome(message: Dictionary) -> void:
	var known_epoch := _epoch
	var was_told := _is_live_told
	_epoch = message["epoch"]
	_retry_ms = FIRST_RETRY_MS
	_told = ""
	phase = Phase.LIVE
	if known_epoch != 0 and known_epoch != _epoch:
		_give_up(_open, "lost", "the server started anew before it was applied")
	# A second hello on a connection that stands (the server forgot us) changes nothing but that.
	if not was_told or known_epoch != _epoch:
		message["scene"] = Messages.tidy_scene(message["scene"])
		frames.open(message, _endpoint.host, _token)
		_is_live_told = true
		_tell("connected", message)
	for id: int in _unanswered:
		_control.send(Msgpack.encode(_unanswered[id]["message"]))
	if not _open.is_empty():
		_unnamed = _open.duplicate()
		_control.send(Msgpack.encode({"type": "ping", "id": ALL_NAMED}))


func _take_error(message: Dictionary) -> void:
	var id: int = message.get("id", 0)
	if message["code"] == "duplicate_id" and _unanswered.has(id):
		return  # It was sent again after a break and had arrived the first time.
	if message["code"] == "no_hello":
		_say_hello(Time.get_ticks_msec())
		return
	if _unanswered.has(id):
		_unanswered.erase(id)
		_tell_rejected(id, message["code"], message["reason"])
	_tell_error(message["code"], message["reason"])


## Whether the receipt tells anything new: after a break the server names again what it knows of.
func _keep_account(receipt: Dictionary) -> bool:
	var id: int = receipt["id"]
	var is_open := _open.has(id)
	var is_news: bool = _unanswered.has(id) or (is_open and receipt["state"] != "accepted")
	_unnamed.erase(id)
	if receipt["state"] != "accepted":
		_open.erase(id)
	elif not is_open and is_news:
		_open[id] = _unanswered[id]
	_unanswered.erase(id)
	return is_news


func _lose_unnamed() -> void:
	for id: int in _unnamed:
		_open.erase(id)
	_give_up(_unnamed, "lost", "the connection was lost, and its receipt with it")


func _empty_outbox(now: int) -> void:
	_mutex.lock()
	var messages := _outbox
	if not messages.is_empty():
		_outbox = []
	_mutex.unlock()
	for message in messages:
		if message["type"] in INPUTS:
			if _unanswered.size() >= MAX_WAITING and phase != Phase.LIVE:
				_tell_rejected(message["id"], "not_connected", _why_offline())
				continue
			_unanswered[message["id"]] = {"message": message, "at_ms": now}
		if phase == Phase.LIVE:
			_control.send(Msgpack.encode(message))
	if phase != Phase.LIVE and not _unanswered.is_empty():
		_give_up_old(now)


func _give_up_old(now: int) -> void:
	var old := {}
	for id: int in _unanswered.keys():
		if phase == Phase.HALTED or now - _unanswered[id]["at_ms"] > OFFLINE_MS:
			old[id] = true
			_unanswered.erase(id)
	_give_up(old, "not_connected", _why_offline())


func _why_offline() -> String:
	return "not connected to %s: %s" % [_endpoint, _told if not _told.is_empty() else "…"]


func _give_up(entries: Dictionary, code: String, reason: String) -> void:
	for id: int in entries:
		_tell_rejected(id, code, reason)
	entries.clear()


func _pass_on_notices() -> void:
	for notice in frames.take_notices():
		if notice["kind"] == "scene":
			notice["scene"] = Messages.tidy_scene(notice["scene"])
		_tell(notice["kind"], notice)


## The connection is gone: try again after a while that grows.
func _break_off(reason: String) -> void:
	if _control.token_is_wrong:
		_halt("token", reason)
		return
	var was_live := _is_live_told
	_is_live_told = false
	_control.close(reason)
	frames.close()
	phase = Phase.WAITING
	_at_ms = Time.get_ticks_msec() + _retry_ms
	_retry_ms = mini(_retry_ms * 2, LAST_RETRY_MS)
	if was_live:
		for entry: Dictionary in _unanswered.values():
			entry["at_ms"] = Time.get_ticks_msec()
		_tell("disconnected", {"reason": reason})
	elif reason != _told:
		_tell_error("not_connected", "%s: %s" % [_endpoint, reason])
	_told = reason


## Trying again would end the same: wait for somebody to change something.
func _halt(code: String, reason: String) -> void:
	var was_live := _is_live_told
	_is_live_told = false
	_control.close(reason)
	frames.close()
	phase = Phase.HALTED
	_told = reason
	if was_live:
		_tell("disconnected", {"reason": reason})
	_tell_error(code, reason)


func _tell_rejected(id: int, code: String, reason: String) -> void:
	_tell("receipt", {"id": id, "state": "rejected", "code": code, "reason": reason})


func _tell_error(code: String, reason: String) -> void:
	_tell("error", {"code": code, "reason": reason})


func _tell(kind: String, news: Dictionary) -> void:
	news["kind"] = kind
	_mutex.lock()
	_news.append(news)
	_mutex.unlock()
