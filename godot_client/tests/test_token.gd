extends "res://tests/test_case.gd"
## A server that wants a token.

const NEEDS := ["endpoint", "token"]

var _stream: EversceneStream
var _errors: Array[String] = []


func _enter_tree() -> void:
	_stream = EversceneStream.new()
	_stream.auto_connect = false
	_stream.endpoint = options["endpoint"]
	_stream.error.connect(func(_code: String, reason: String) -> void: _errors.append(reason))
	add_child(_stream)


func test_the_right_token_opens() -> void:
	_stream.token = options["token"]
	_stream.connect_to_server()
	check(await wait_until(func() -> bool: return _stream.frame != null), "frames")
	check_equal(_errors, [] as Array[String], "errors")


func test_a_wrong_token_is_said_once_and_not_tried_again() -> void:
	_stream.token = "wrong"
	_stream.connect_to_server()
	var receipt := _stream.send_event("storm")
	check_equal(await receipt.wait(), EversceneReceipt.State.REJECTED, "an event is rejected")
	check(receipt.reason.ends_with("the server refused the token"), receipt.reason)
	await wait_seconds(1.0)
	check_equal(_errors, ["the server refused the token"] as Array[String], "errors")


func test_no_token_is_said() -> void:
	_stream.connect_to_server()
	check(await wait_until(func() -> bool: return not _errors.is_empty()), "an error")
	check_equal(_errors, ["this server needs a token"] as Array[String], "errors")


func test_after_a_wrong_token_the_right_one_opens() -> void:
	_stream.token = "wrong"
	_stream.connect_to_server()
	check(await wait_until(func() -> bool: return not _errors.is_empty()), "an error")
	_stream.token = options["token"]
	_stream.connect_to_server()
	check(await wait_until(func() -> bool: return _stream.is_live), "live")
