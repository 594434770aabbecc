extends "res://tests/test_case.gd"
## The bytes of our side of ZMTP, and what the other side's bytes do to it.

const NEEDS := ["vectors"]
const Endpoint := preload("res://addons/everscene/core/endpoint.gd")
const ZmtpSocket := preload("res://addons/everscene/core/zmtp_socket.gd")

var _server := TCPServer.new()
var _peer: StreamPeerTCP
var _socket := ZmtpSocket.new()
var _golden := {}


func _enter_tree() -> void:
	for entry: Dictionary in read_json(options["vectors"] + "/zmtp.json"):
		_golden[entry["name"]] = entry["hex"].hex_decode()


func _exit_tree() -> void:
	_socket.close()
	_server.stop()


func test_our_bytes_are_the_golden_ones() -> void:
	var made := {
		"greeting_null": ZmtpSocket.greeting("NULL"),
		"greeting_plain": ZmtpSocket.greeting("PLAIN"),
		"ready_dealer_anonymous": ZmtpSocket.ready("READY", "DEALER"),
		"ready_sub": ZmtpSocket.ready("READY", "SUB"),
		"plain_hello": ZmtpSocket.hello("secret"),
		"plain_initiate": ZmtpSocket.ready("INITIATE", "DEALER"),
		"subscribe": ZmtpSocket.command("SUBSCRIBE", "frame.ring".to_ascii_buffer()),
		"cancel": ZmtpSocket.command("CANCEL", "frame.ring".to_ascii_buffer()),
		"pong": ZmtpSocket.command("PONG", "ctx".to_ascii_buffer()),
		"message_empty": ZmtpSocket.frame(PackedByteArray()),
		"message_bye": ZmtpSocket.frame("81a474797065a3627965".hex_decode()),
		"message_255": ZmtpSocket.frame("a".repeat(255).to_ascii_buffer()),
		"message_256": ZmtpSocket.frame("a".repeat(256).to_ascii_buffer()),
	}
	for name: String in made:
		check_equal(made[name].hex_encode(), _golden[name].hex_encode(), name)


func test_null_handshake_then_messages_both_ways() -> void:
	await _open("DEALER", "ROUTER", "")
	_serve("greeting_libzmq")
	_serve("ready_router")
	check(await _until(ZmtpSocket.State.READY), "ready: " + _socket.failure)
	var expected: PackedByteArray = _golden["greeting_null"] + _golden["ready_dealer_anonymous"]
	check_equal(await _heard(expected.size()), expected, "what we said")
	_socket.send("81a474797065a3627965".hex_decode())
	check_equal(await _heard(_golden["message_bye"].size()), _golden["message_bye"], "bye")
	_serve("message_frame")
	var message: Array[PackedByteArray] = []
	await wait_until(
		func() -> bool:
			_socket.poll()
			message.assign(_socket.take())
			return not message.is_empty()
	)
	check_equal(message.size(), 2, "parts")
	check_equal(message[0].get_string_from_ascii(), "frame.ring", "topic")


func test_bytes_that_come_one_by_one_are_understood() -> void:
	await _open("DEALER", "ROUTER", "")
	for byte: int in _golden["greeting_libzmq"] + _golden["ready_router"]:
		_peer.put_u8(byte)
		_socket.poll()
	check(await _until(ZmtpSocket.State.READY), "ready: " + _socket.failure)


func test_plain_handshake_sends_the_token() -> void:
	await _open("DEALER", "ROUTER", "secret")
	_serve("greeting_libzmq_plain")
	var first: PackedByteArray = _golden["greeting_plain"] + _golden["plain_hello"]
	check_equal(await _heard(first.size()), first, "greeting and HELLO")
	_serve("plain_welcome")
	var initiate: PackedByteArray = _golden["plain_initiate"]
	check_equal(await _heard(initiate.size()), initiate, "INITIATE")
	_serve("ready_router")
	check(await _until(ZmtpSocket.State.READY), "ready: " + _socket.failure)


func test_a_token_is_not_sent_to_a_server_that_wants_none() -> void:
	await _open("DEALER", "ROUTER", "secret")
	_serve("greeting_libzmq")
	var expected: PackedByteArray = _golden["greeting_null"] + _golden["ready_dealer_anonymous"]
	check_equal(await _heard(expected.size()), expected, "what we said")


func test_a_server_that_wants_a_token_is_named() -> void:
	await _open("DEALER", "ROUTER", "")
	_serve("greeting_libzmq_plain")
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check_equal(_socket.failure, "this server needs a token", "failure")
	check(_socket.token_is_wrong, "no use in trying again")


func test_both_spellings_of_error_are_a_wrong_token() -> void:
	for name: String in ["error", "error_libzmq"]:
		await _open("DEALER", "ROUTER", "wrong")
		_serve("greeting_libzmq_plain")
		_serve(name)
		check(await _until(ZmtpSocket.State.CLOSED), "closed")
		check_equal(_socket.failure, "the server refused the token", name)
		check(_socket.token_is_wrong, "no use in trying again")


func test_a_ping_gets_its_context_back() -> void:
	await _open("SUB", "XPUB", "")
	_serve("greeting_libzmq")
	_serve("ready_xpub")
	check(await _until(ZmtpSocket.State.READY), "ready: " + _socket.failure)
	var said: int = _golden["greeting_null"].size() + _golden["ready_sub"].size()
	await _heard(said)
	_serve("ping")
	check_equal(await _heard(_golden["pong"].size()), _golden["pong"], "PONG")


func test_another_kind_of_socket_is_named() -> void:
	await _open("DEALER", "ROUTER", "")
	_serve("greeting_libzmq")
	_serve("ready_xpub")
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check(_socket.failure.begins_with("the port belongs to a XPUB socket"), _socket.failure)


func test_another_protocol_is_named() -> void:
	await _open("DEALER", "ROUTER", "")
	_peer.put_data("HTTP/1.1 400 Bad Request\r\n\r\n".to_ascii_buffer())
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check(_socket.failure.contains("not in ZeroMQ's language"), _socket.failure)


func test_a_frame_beyond_the_limit_ends_the_connection() -> void:
	await _open("DEALER", "ROUTER", "")
	_serve("greeting_libzmq")
	_serve("ready_router")
	_peer.put_data("02000000ffffffffff".hex_decode())
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check(_socket.failure.contains("over the limit"), _socket.failure)


func test_nobody_there_is_a_failure_and_not_a_wait() -> void:
	_socket.open("127.0.0.1", 1, "DEALER", "ROUTER", "")
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check_equal(_socket.failure, "nobody answers there", "failure")


func test_a_name_is_looked_up_without_a_wait() -> void:
	_socket.open("nowhere.invalid", 1, "DEALER", "ROUTER", "")
	check_equal(_socket.state, ZmtpSocket.State.RESOLVING, "not looked up yet")
	check(await _until(ZmtpSocket.State.CLOSED), "closed")
	check(_socket.failure.contains("nowhere.invalid"), _socket.failure)


func test_a_name_leads_to_its_address() -> void:
	_server.stop()
	_server.listen(0, "127.0.0.1")
	_socket.open("localhost", _server.get_local_port(), "DEALER", "ROUTER", "")
	check(await _until(ZmtpSocket.State.GREETING), "connected: " + _socket.failure)


func test_a_socket_that_is_closed_while_its_name_is_looked_up_stays_closed() -> void:
	_socket.open("localhost", 1, "DEALER", "ROUTER", "")
	_socket.close("no more")
	await wait_seconds(0.1)
	_socket.poll()
	check_equal(_socket.failure, "no more", "failure")


func test_an_endpoint_is_split_at_its_last_colon() -> void:
	var places := {
		"tcp://127.0.0.1:7465": ["127.0.0.1", 7465],
		"tcp://studio.example": ["studio.example", 7464],
		"127.0.0.1:1": ["127.0.0.1", 1],
		"tcp://*:7465": ["*", 7465],
		"tcp://[::1]:7465": ["::1", 7465],
		"tcp://[fe80::1]": ["fe80::1", 7464],
	}
	for text: String in places:
		var endpoint := Endpoint.new(text, 7464)
		check_equal([endpoint.host, endpoint.port], places[text], text)
	check_equal(str(Endpoint.new("tcp://[::1]:7465")), "[::1]:7465", "for a person")


func _open(type: String, peer_type: String, token: String) -> void:
	_server.stop()
	_server.listen(0, "127.0.0.1")
	_socket.open("127.0.0.1", _server.get_local_port(), type, peer_type, token)
	await wait_until(
		func() -> bool:
			_socket.poll()
			return _server.is_connection_available()
	)
	_peer = _server.take_connection()
	_peer.set_no_delay(true)


func _serve(name: String) -> void:
	_peer.put_data(_golden[name])


func _until(state: ZmtpSocket.State) -> bool:
	return await wait_until(
		func() -> bool:
			_socket.poll()
			return _socket.state == state,
		3.0
	)


## The next [param count] bytes that our socket sent.
func _heard(count: int) -> PackedByteArray:
	await wait_until(
		func() -> bool:
			_socket.poll()
			_peer.poll()
			return _peer.get_available_bytes() >= count,
		3.0
	)
	return _peer.get_partial_data(count)[1]
