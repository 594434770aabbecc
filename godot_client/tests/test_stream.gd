extends "res://tests/test_case.gd"
## EversceneStream against tests/clients/godot/peer.py: receipts, texture, and every trouble.

const NEEDS := ["endpoint"]

var _stream: EversceneStream
var _errors: Array[String] = []
var _connections := 0


func _enter_tree() -> void:
	_stream = EversceneStream.new()
	_stream.endpoint = options["endpoint"]
	_stream.error.connect(func(code: String, _reason: String) -> void: _errors.append(code))
	_stream.connected.connect(func() -> void: _connections += 1)
	add_child(_stream)


func test_it_connects_by_itself_and_knows_the_scene() -> void:
	check(await _until_live(), "live")
	check_equal(_stream.model, "peer", "model")
	check_equal(_stream.scene["name"], "peer", "scene")
	check(_stream.scene["events"].size() > 5, "events")
	check_equal(_stream.prompt, "a calm harbour at dawn", "prompt")


func test_an_event_is_accepted_then_applied_and_then_seen() -> void:
	await _until_live()
	var accepted: Array[bool] = []
	var heard: Array[EversceneReceipt] = []
	_stream.event_applied.connect(func(r: EversceneReceipt) -> void: heard.append(r))
	var receipt := _stream.send_event("storm", {"intensity": 0.8, "name": "x", "n": 3, "b": true})
	receipt.accepted.connect(func() -> void: accepted.append(true))
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "state")
	check_equal(accepted.size(), 1, "accepted before")
	check(receipt.frame > 0 and receipt.latency_ms > 0.0, "frame and latency")
	check(receipt.prompt.contains("storm"), receipt.prompt)
	check_equal(heard, [receipt] as Array[EversceneReceipt], "event_applied")
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "waiting again returns")
	var is_shown := func() -> bool:
		return _stream.frame != null and _stream.frame.number >= receipt.frame
	check(await wait_until(is_shown), "its frame is shown")
	check(_stream.frame.prompt.contains("storm"), "the frame bears the prompt")
	check(_stream.frame.order >= receipt.order, "the frame bears its order")
	await wait_seconds(0.1)


func test_a_prompt_is_applied() -> void:
	await _until_live()
	var receipt := _stream.send_prompt("a quiet forest", "cut", "now")
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "state")
	check(await wait_until(func() -> bool: return _stream.prompt == "a quiet forest"), "prompt")


func test_every_refusal_has_its_reason() -> void:
	await _until_live()
	var unknown := _stream.send_event("earthquake")
	check_equal(await unknown.wait(), EversceneReceipt.State.REJECTED, "unknown")
	check_equal(unknown.code, "unknown_event", "code")
	check(unknown.reason.contains("earthquake"), unknown.reason)
	var late := _stream.send_event("failing")
	check_equal(await late.wait(), EversceneReceipt.State.REJECTED, "accepted, then rejected")
	check_equal(late.code, "engine", "code")
	var replaced := _stream.send_event("superseded")
	check_equal(await replaced.wait(), EversceneReceipt.State.SUPERSEDED, "superseded")
	check_equal(replaced.superseded_by, replaced.order + 1, "by")
	var wrong := _stream.send_event("error")
	check_equal(await wrong.wait(), EversceneReceipt.State.REJECTED, "an error that bears our id")
	check_equal(wrong.code, "wrong_type", "code")
	var vector := _stream.send_event("storm", {"where": Vector2.ONE})
	check_equal(await vector.wait(), EversceneReceipt.State.REJECTED, "a type without a place")
	check_equal(vector.code, "wrong_type", "code")
	var long := _stream.send_prompt("x".repeat(70_000))
	check_equal(await long.wait(), EversceneReceipt.State.REJECTED, "too long")
	check_equal(long.code, "too_long", "code")


func test_an_event_sent_before_the_connection_is_sent_later() -> void:
	check(not _stream.is_live, "not yet connected")
	var receipt := _stream.send_event("calm")
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "state")


func test_an_event_to_nobody_is_rejected_and_says_why() -> void:
	_stream.endpoint = "tcp://127.0.0.1:1"
	_stream.connect_to_server()
	var receipt := _stream.send_event("calm")
	check_equal(await receipt.wait(), EversceneReceipt.State.REJECTED, "state")
	check_equal(receipt.code, "not_connected", "code")
	check(receipt.reason.contains("nobody answers there"), receipt.reason)
	check_equal(_errors, ["not_connected"] as Array[String], "one error, not one for each try")


func test_disconnecting_settles_what_is_open() -> void:
	await _until_live()
	var receipt := _stream.send_event("silent")
	await wait_seconds(0.1)
	_stream.disconnect_from_server()
	check(receipt.is_settled(), "settled at once")
	check_equal(receipt.code, "not_connected", "code")
	var after := _stream.send_event("calm")
	check_equal(await after.wait(), EversceneReceipt.State.REJECTED, "sent while disconnected")


func test_garbage_is_survived() -> void:
	await _until_live()
	await _stream.send_event("garbage").wait()
	check(_errors.has("not_msgpack"), "it was told")
	await _check_alive()


func test_malformed_messages_are_survived_and_told() -> void:
	await _until_live()
	await _stream.send_event("malformed").wait()
	check(_errors.has("wrong_type"), "it was told")
	await _check_alive()


func test_a_broken_connection_comes_back_and_what_had_no_answer_is_sent_again() -> void:
	await _until_live()
	var receipt := _stream.send_event("silent")
	await wait_seconds(0.1)
	var reasons: Array[String] = []
	_stream.disconnected.connect(func(reason: String) -> void: reasons.append(reason))
	_stream.send_event("hang_up")
	check(await wait_until(func() -> bool: return not reasons.is_empty()), "disconnected")
	check(await _until_live(), "live again")
	await _check_alive()
	check(not receipt.is_settled(), "still open: the peer never answers it")


func test_a_restarted_server_is_greeted_anew() -> void:
	await _until_live()
	var epoch: int = _stream.info["epoch"]
	var receipt := _stream.send_event("restart")
	check_equal(
		await receipt.wait(), EversceneReceipt.State.REJECTED, "it went with the old server"
	)
	check_equal(receipt.code, "lost", "code")
	check(await _until_live(), "live again")
	check(_stream.info["epoch"] != epoch, "another epoch")
	await _check_alive()


func test_a_server_that_forgot_us_is_told_again_who_we_are() -> void:
	await _until_live()
	var receipt := _stream.send_event("forget")
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "sent again after the hello")
	check_equal(_errors, [] as Array[String], "nothing to tell a person")
	await _check_alive()
	check_equal(_connections, 1, "the connection stood")


func test_a_ring_of_another_size_is_taken_up() -> void:
	await _until_live()
	await _check_alive()
	var before := _stream.frame.image.get_size()
	await _stream.send_event("ring").wait()
	var is_larger := func() -> bool:
		return _stream.frame.image.get_size() == before + Vector2i(8, 2)
	check(await wait_until(is_larger), "frames of the new size")
	check_equal(_stream.texture.get_size(), Vector2(before + Vector2i(8, 2)), "the texture follows")
	check_equal(_connections, 1, "without a new connection")


func test_stats_come_when_asked_for() -> void:
	await _until_live()
	var got: Array[Dictionary] = []
	_stream.stats_received.connect(func(stats: Dictionary) -> void: got.append(stats))
	_stream.request_stats()
	check(await wait_until(func() -> bool: return got.size() == 1), "stats")


func test_without_a_thread_it_works_too() -> void:
	_stream.use_thread = false
	_stream.connect_to_server()
	check(await _until_live(), "live")
	await _check_alive()


func test_a_trigger_sends_when_a_body_walks_in_and_out() -> void:
	await _until_live()
	var area := Area3D.new()
	var trigger := EversceneTrigger.new()
	trigger.event = &"storm"
	trigger.exit_event = &"calm"
	trigger.only_group = &"player"
	area.add_child(trigger)
	add_child(area)
	var sent: Array[EversceneReceipt] = []
	trigger.fired.connect(func(receipt: EversceneReceipt) -> void: sent.append(receipt))
	var stone := Node3D.new()
	var player := Node3D.new()
	player.add_to_group(&"player")
	area.body_entered.emit(stone)
	area.body_entered.emit(player)
	area.body_exited.emit(stone)
	area.body_exited.emit(player)
	check_equal(
		sent.map(func(r: EversceneReceipt) -> String: return r.event), ["storm", "calm"], "sent"
	)
	check_equal(await sent[1].wait(), EversceneReceipt.State.APPLIED, "applied")
	stone.free()
	player.free()


func _until_live() -> bool:
	return await wait_until(func() -> bool: return _stream.is_live)


## New frames come, and an event gets through.
func _check_alive() -> void:
	check(await _until_live(), "live")
	var counted: Array[int] = []
	var count := func(_t: EversceneTexture, frame: EversceneFrame) -> void:
		counted.append(frame.number)
	_stream.frame_received.connect(count)
	check(await wait_until(func() -> bool: return counted.size() >= 3), "frames go on")
	_stream.frame_received.disconnect(count)
	var receipt := _stream.send_event("calm")
	check_equal(await receipt.wait(), EversceneReceipt.State.APPLIED, "events go on")
