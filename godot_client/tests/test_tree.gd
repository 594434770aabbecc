extends "res://tests/test_case.gd"
## A stream whose node is moved, taken out, put back and freed, and handlers that disconnect it.

const NEEDS := ["endpoint"]
const NOBODY := "tcp://127.0.0.1:1"

var _stream: EversceneStream


func _enter_tree() -> void:
	_stream = EversceneStream.new()
	_stream.endpoint = options["endpoint"]
	add_child(_stream)


func test_a_stream_that_is_moved_goes_on() -> void:
	check(await _until_frames(), "frames")
	var place := Node.new()
	add_child(place)
	_stream.reparent(place)
	check(await _until_frames(), "frames after the move")
	check_equal(await _stream.send_event("calm").wait(), EversceneReceipt.State.APPLIED, "an event")


func test_a_stream_outside_the_tree_is_not_connected() -> void:
	check(await _until_frames(), "frames")
	var reasons: Array[String] = []
	_stream.disconnected.connect(func(reason: String) -> void: reasons.append(reason))
	remove_child(_stream)
	check_equal(reasons, ["closed"] as Array[String], "disconnected")
	await wait_seconds(0.2)
	add_child(_stream)
	check(await _until_frames(), "frames when it is back")


func test_a_stream_that_was_disconnected_stays_so_when_it_is_moved() -> void:
	check(await _until_frames(), "frames")
	_stream.disconnect_from_server()
	_stream.reparent(get_tree().root)
	await wait_seconds(0.3)
	check(not _stream.is_live, "not connected")
	_stream.reparent(self)


func test_a_stream_that_was_connected_by_hand_goes_on_too() -> void:
	var other := EversceneStream.new()
	other.auto_connect = false
	other.endpoint = options["endpoint"]
	add_child(other)
	other.connect_to_server()
	check(await wait_until(func() -> bool: return other.is_live), "live")
	other.reparent(_stream)
	check(not other.is_live, "the move breaks the connection")
	check(await wait_until(func() -> bool: return other.is_live), "live after the move")


func test_an_event_of_a_connection_that_never_came_about_is_settled() -> void:
	for use_thread: bool in [true, false]:
		_stream.use_thread = use_thread
		_stream.connect_to_server()
		var receipts: Array[EversceneReceipt] = []
		receipts.append(_stream.send_event("calm"))
		receipts.append(_stream.send_prompt("a quiet forest"))
		_stream.disconnect_from_server()
		for receipt in receipts:
			check_equal(receipt.state, EversceneReceipt.State.REJECTED, "settled")
			check_equal(receipt.code, "not_connected", "code")


func test_a_handler_that_disconnects_leaves_no_receipt_open() -> void:
	check(await _until_frames(), "frames")
	var receipts: Array[EversceneReceipt] = []
	for i in 3:
		receipts.append(_stream.send_event("silent"))
	_stream.event_applied.connect(
		func(_receipt: EversceneReceipt) -> void: _stream.disconnect_from_server()
	)
	for receipt in receipts:
		var applied := {"id": receipt.id, "state": "applied", "frame": 1, "latency_ms": 1.0}
		_stream._client._tell("receipt", applied)
	await get_tree().process_frame
	await get_tree().process_frame
	for receipt in receipts:
		check_equal(receipt.state, EversceneReceipt.State.APPLIED, "settled as the server said")


func test_a_handler_that_connects_anew_hears_the_old_news_before() -> void:
	check(await _until_frames(), "frames")
	var heard_before: Array[String] = []
	_stream.state_changed.connect(
		func(state: String, _reason: String) -> void:
			if state == "slow":
				_stream.endpoint = NOBODY
				_stream.connect_to_server()
				heard_before.append(_stream.prompt)
	)
	_stream._client._tell("state", {"state": "slow"})
	_stream._client._tell("prompt", {"text": "a prompt of the old server"})
	check(await wait_until(func() -> bool: return not heard_before.is_empty()), "connected anew")
	check_equal(heard_before, ["a prompt of the old server"] as Array[String], "all heard before")
	check(not _stream.is_live, "the new one is not live yet")


func _until_frames() -> bool:
	var before := _stream.frame.number if _stream.frame != null else 0
	return await wait_until(
		func() -> bool:
			return _stream.is_live and _stream.frame != null and _stream.frame.number > before
	)
