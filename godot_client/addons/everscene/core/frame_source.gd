extends RefCounted
## Frames as they come: from the ring where the server's file can be opened, else inline, in the
## messages themselves. Also brings the notices, which share the frames socket.
##
## All but [method take_due] runs on the thread that polls.

enum Playback { NEWEST, IN_ORDER }
enum Source { AUTO, RING, RAW, JPEG }

const Endpoint := preload("endpoint.gd")
const FrameRing := preload("frame_ring.gd")
const Messages := preload("messages.gd")
const Msgpack := preload("msgpack.gd")
const ZmtpSocket := preload("zmtp_socket.gd")

const _RECONNECT_MS := 500
## The frames socket may take this long; after it a person is told why it is not there.
const _TELL_AFTER_MS := 2000
const _HEARTBEAT_CHECK_MS := 500
const _DEAD_AFTER_MS := 3000
const _FLAG_CUT := 1
const _FLAG_DISCONTINUITY := 16
## In order: frames kept ready at most. Beyond that the oldest goes, and is counted.
const _QUEUE_LIMIT := 12
## In order: a frame that is later than this, or due further away than that, belongs to a clock
## that has shifted (slow generation, a stalled game): the playback clock is set by it anew.
const _LATE_NS := 150_000_000
const _EARLY_NS := 1_000_000_000

## What is in use: Source.RING, RAW or JPEG.
var source := Source.RING
## True once the server is known to be gone or another: say hello again.
var lost := ""
## Notices since the last take_notices(): tidy maps with `kind`.
var notices: Array[Dictionary] = []
## What keeps frames away, since the last take_problems(): maps with `code` and `reason`.
var problems: Array[Dictionary] = []

var received := 0
var torn := 0
var missed := 0
var skipped := 0

var _wish := Source.AUTO
var _playback := Playback.NEWEST
var _delay_frames := 0
var _delay_ns := 0
var _endpoint: Endpoint
var _token := ""
var _epoch := 0
var _socket := ZmtpSocket.new()
var _is_subscribed := false
var _ring := FrameRing.new()
var _msgpack := Msgpack.new()
var _retry_at_ms := 0
## Since when the frames socket is not ready, and whether that was told.
var _unready_ms := 0
var _is_told := false
var _failure := ""
var _checked_ms := 0
var _heartbeat := 0
var _beat_ms := 0
var _last_number := 0
var _prompt := ""

var _mutex := Mutex.new()
var _queue: Array[EversceneFrame] = []
var _anchor_ns := 0
var _anchored_at := 0


func _init(wish: Source, playback: Playback, delay_frames: int) -> void:
	_wish = wish
	_playback = playback
	_delay_frames = delay_frames


## Begins to bring the frames that [param welcome] tells of. [param control_host] is where the
## control socket was reached.
func open(welcome: Dictionary, control_host: String, token: String) -> void:
	close()
	_endpoint = Endpoint.new(welcome["frames_endpoint"])
	if _endpoint.host in ["*", "0.0.0.0", "::"]:
		_endpoint.host = control_host
	_token = token
	_epoch = welcome["epoch"]
	_prompt = welcome["prompt"]
	_delay_ns = int(_delay_frames * 1e9 / maxf(welcome["fps"], 1.0))
	_last_number = 0
	lost = ""
	problems.clear()
	_unready_ms = Time.get_ticks_msec()
	_is_told = false
	_failure = ""
	_choose(welcome.get("ring", {}))
	_connect()


func close() -> void:
	_socket.close()
	_ring.close()
	_mutex.lock()
	_queue.clear()
	_anchor_ns = 0
	_mutex.unlock()


func poll() -> void:
	_socket.poll()
	var now := Time.get_ticks_msec()
	if _socket.state != ZmtpSocket.State.READY:
		_await_socket(now)
		return
	if not _is_subscribed:
		_is_subscribed = true
		_is_told = false
		_socket.subscribe("notice")
		_socket.subscribe(_topic())
	_read_messages()
	if _ring.is_open() and now - _checked_ms > _HEARTBEAT_CHECK_MS:
		_check_writer(now)


## The frame to show now, or null. Call it once per displayed frame, from any thread.
func take_due() -> EversceneFrame:
	_mutex.lock()
	var frame: EversceneFrame = null
	if not _queue.is_empty():
		if _playback == Playback.NEWEST:
			frame = _queue.pop_back()
			skipped += _queue.size()
			_queue.clear()
		else:
			_catch_up()
			if _due_ns(_queue[0]) <= Time.get_ticks_usec() * 1000:
				frame = _queue.pop_front()
	_mutex.unlock()
	return frame


func take_notices() -> Array[Dictionary]:
	var taken := notices
	notices = []
	return taken


func take_problems() -> Array[Dictionary]:
	var taken := problems
	problems = []
	return taken


func _choose(ring: Dictionary) -> void:
	source = _wish
	if _wish == Source.RAW or _wish == Source.JPEG:
		return
	var problem := ""
	if not ring.get("path") is String or not ring.get("ring_id") is int:
		problem = "the server has no ring"
	elif not _ring.open(ring["path"], ring["ring_id"]):
		problem = _ring.failure
	if problem.is_empty():
		source = Source.RING
		_heartbeat = 0
		_beat_ms = Time.get_ticks_msec()
	elif _wish == Source.RING:
		problems.append({"code": "ring", "reason": "no frames by way of the ring: %s" % problem})
	else:
		var is_near := _endpoint.host in ["127.0.0.1", "localhost", "::1"]
		source = Source.RAW if is_near else Source.JPEG


func _topic() -> String:
	return {Source.RAW: "frame.raw", Source.JPEG: "frame.jpeg"}.get(source, "frame.ring")


func _connect() -> void:
	_retry_at_ms = Time.get_ticks_msec() + _RECONNECT_MS
	_is_subscribed = false
	_socket.open(_endpoint.host, _endpoint.port, "SUB", "XPUB", _token)


## Tries again when the connection failed, and tells why once it takes too long.
func _await_socket(now: int) -> void:
	if _is_subscribed:
		_is_subscribed = false
		_unready_ms = now
	if _socket.state == ZmtpSocket.State.CLOSED:
		_failure = _socket.failure
		if now >= _retry_at_ms:
			_connect()
	if not _is_told and not _failure.is_empty() and now - _unready_ms > _TELL_AFTER_MS:
		_is_told = true
		problems.append(
			{"code": "frames", "reason": "no frames from %s: %s" % [_endpoint, _failure]}
		)


func _read_messages() -> void:
	var newest: Array[PackedByteArray] = []
	while true:
		var parts := _socket.take()
		if parts.is_empty():
			break
		if parts.size() < 2:
			continue
		if parts[0].get_string_from_ascii() == "notice":
			_read_notice(parts[1])
		elif _playback == Playback.IN_ORDER:
			_read_frame(parts)
		else:
			if not newest.is_empty():
				missed += 1
			newest = parts
	if not newest.is_empty():
		_read_frame(newest)


func _read_notice(bytes: PackedByteArray) -> void:
	var notice: Variant = _msgpack.decode(bytes)
	if not notice is Dictionary or not notice.get("kind") is String:
		return
	var kind: String = notice["kind"]
	if not kind in ["prompt", "input", "state", "ring_changed", "scene"]:
		return
	if not Messages.problem(kind, notice).is_empty():
		return
	if notice.get("epoch", _epoch) != _epoch:
		lost = "the server started anew"
	elif kind == "ring_changed":
		_change_ring(notice.get("ring", {}))
	notices.append(notice)


func _change_ring(ring: Dictionary) -> void:
	var before := _topic()
	_ring.close()
	_choose(ring)
	if _topic() != before:
		_socket.unsubscribe(before)
		_socket.subscribe(_topic())


func _read_frame(parts: Array[PackedByteArray]) -> void:
	var notice: Variant = _msgpack.decode(parts[1])
	if not notice is Dictionary or not Messages.problem("frame", notice).is_empty():
		return
	if notice["epoch"] != _epoch:
		lost = "the server started anew"
		return
	_prompt = notice["prompt"]
	var frame := EversceneFrame.new()
	frame.number = notice["frame"]
	frame.prompt = _prompt
	frame.stamps_ns = notice["stamps_ns"]
	match source:
		Source.RING:
			if notice["ring_id"] != _ring.ring_id or not _ring.is_open():
				return
			frame = _read_slot(frame)
		Source.RAW:
			_take_fields(frame, notice)
			frame.image = _raw_image(notice, parts)
		Source.JPEG:
			_take_fields(frame, notice)
			frame.image = _jpeg_image(parts)
	if frame != null and frame.image != null and frame.number > _last_number:
		_enqueue(frame)


## The frame's pixels from its slot. Where the writer was faster: the latest frame instead,
## or null when even that one is overwritten meanwhile.
func _read_slot(frame: EversceneFrame) -> EversceneFrame:
	var pixels := _ring.read(frame.number)
	if pixels.is_empty():
		torn += 1
		frame = EversceneFrame.new()
		frame.number = _ring.latest()
		frame.prompt = _prompt
		pixels = _ring.read(frame.number) if frame.number > 0 else pixels
		if pixels.is_empty():
			return null
		frame.stamps_ns = {"published": _ring.descriptor["commit_unix_ns"]}
	var fields := _ring.descriptor
	_take_fields(frame, fields)
	frame.image = Image.create_from_data(
		fields["width"], fields["height"], false, Image.FORMAT_RGBA8, pixels
	)
	return frame


## The fields that notice and descriptor have in common.
func _take_fields(frame: EversceneFrame, fields: Dictionary) -> void:
	frame.epoch = fields["epoch"]
	frame.pts_ns = fields["pts_ns"]
	frame.chunk = fields["chunk"]
	frame.index = fields["index"]
	frame.order = fields["order"]
	frame.is_cut = (fields["flags"] & _FLAG_CUT) != 0
	frame.is_discontinuity = (fields["flags"] & _FLAG_DISCONTINUITY) != 0


func _raw_image(notice: Dictionary, parts: Array[PackedByteArray]) -> Image:
	var width: int = notice["width"]
	var height: int = notice["height"]
	if parts.size() < 3 or width < 1 or height < 1 or width * height * 4 != parts[2].size():
		return null
	return Image.create_from_data(width, height, false, Image.FORMAT_RGBA8, parts[2])


func _jpeg_image(parts: Array[PackedByteArray]) -> Image:
	var image := Image.new()
	if parts.size() < 3 or image.load_jpg_from_buffer(parts[2]) != OK:
		return null
	image.convert(Image.FORMAT_RGBA8)
	return image


func _enqueue(frame: EversceneFrame) -> void:
	if _last_number > 0 and _playback == Playback.IN_ORDER:
		missed += frame.number - _last_number - 1
	_last_number = frame.number
	received += 1
	_mutex.lock()
	_queue.append(frame)
	var limit := 1 if _playback == Playback.NEWEST else _QUEUE_LIMIT
	while _queue.size() > limit:
		_queue.pop_front()
		skipped += 1
	_mutex.unlock()


## When more frames wait than the delay asks for (the game stood still for a moment), the playback
## clock goes forward, so that the next one is due now: they are shown faster, rather than lost.
func _catch_up() -> void:
	if _queue.size() > _delay_frames + 1:
		_anchor_ns = mini(_anchor_ns, Time.get_ticks_usec() * 1000 - _queue[0].pts_ns)


## When [param frame] is due on our own clock. The first frame sets that clock.
func _due_ns(frame: EversceneFrame) -> int:
	var now := Time.get_ticks_usec() * 1000
	var due := _anchor_ns + frame.pts_ns
	var is_off := due < now - _LATE_NS or due > now + _EARLY_NS
	if _anchor_ns == 0 or is_off or (frame.is_discontinuity and frame.number != _anchored_at):
		_anchored_at = frame.number
		_anchor_ns = now + _delay_ns - frame.pts_ns
		due = now + _delay_ns
	return due


func _check_writer(now: int) -> void:
	_checked_ms = now
	var beat := _ring.heartbeat()
	if beat != _heartbeat:
		_heartbeat = beat
		_beat_ms = now
	# A replaced ring is named by a notice, and has no heartbeat any more if that went astray.
	if _ring.state() == FrameRing.STATE_CLOSED:
		lost = "the server closed its ring"
	elif now - _beat_ms > _DEAD_AFTER_MS:
		lost = "the server's ring has had no heartbeat for %d s" % (_DEAD_AFTER_MS / 1000)
