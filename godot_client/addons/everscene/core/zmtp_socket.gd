extends RefCounted
## One ZMTP 3.1 connection over TCP: a DEALER or a SUB, spoken without libzmq.
##
## Both ends send a greeting of 64 bytes: signature, version, the name of a mechanism. Then the
## mechanism's commands (NULL: READY each way; PLAIN: HELLO, WELCOME, INITIATE, READY), then
## frames: a byte of flags, a length of 1 or 8 big-endian bytes, the body. A message is one frame
## or more; all but its last have MORE set. The bytes are in docs/protocol.md and tests/vectors/.
##
## We hold back our mechanism until the server has named its own. So a token never goes to a
## server that did not ask for one, and a server that wants one is told from one that is broken.
##
## Nothing here waits: call [method poll] often, take messages with [method take].

enum State { CLOSED, RESOLVING, CONNECTING, GREETING, HANDSHAKE, READY }

const USER := "everscene"
const MAX_FRAME_BYTES := 64 << 20
const MAX_UNSENT_BYTES := 4 << 20
const HANDSHAKE_MS := 5000
const SILENCE_MS := 12000  # The server sends a PING every 2 s.

const _MORE := 1
const _LONG := 2
const _COMMAND := 4
const _GREETING_BYTES := 64

var state := State.CLOSED
## Why the connection is closed, for a person.
var failure := ""
## True when trying again with the same token is pointless.
var token_is_wrong := false

var _tcp := StreamPeerTCP.new()
var _host := ""
var _port := 0
## The system's answer to which address [member _host] has, while it is awaited.
var _query := IP.RESOLVER_INVALID_ID
var _socket_type := ""
var _peer_type := ""
var _token := ""
var _plain := false
var _since_ms := 0
var _heard_ms := 0
var _inbox := PackedByteArray()
var _at := 0
var _unsent := PackedByteArray()
var _parts: Array[PackedByteArray] = []
var _messages: Array[Array] = []


## Starts to connect. [param socket_type] is "DEALER" or "SUB", [param peer_type] what the server
## has to be ("ROUTER", "XPUB"). An empty [param token] means none.
func open(host: String, port: int, socket_type: String, peer_type: String, token: String) -> void:
	close("")
	token_is_wrong = false
	_socket_type = socket_type
	_peer_type = peer_type
	_token = token
	_host = host
	_port = port
	_since_ms = Time.get_ticks_msec()
	if host.is_valid_ip_address():
		_connect(host)
		return
	state = State.RESOLVING
	_query = IP.resolve_hostname_queue_item(host)


## Ends the connection. [param why] is kept in [member failure].
func close(why := "") -> void:
	if state != State.CLOSED:
		_tcp.disconnect_from_host()
	if _query != IP.RESOLVER_INVALID_ID:
		IP.erase_resolve_item(_query)
		_query = IP.RESOLVER_INVALID_ID
	state = State.CLOSED
	failure = why
	_inbox.clear()
	_at = 0
	_unsent.clear()
	_parts = []
	_messages = []


## Sends and receives what can be sent and received now.
func poll() -> void:
	if state == State.RESOLVING:
		_resolve()
	if state == State.CLOSED or state == State.RESOLVING:
		return
	_tcp.poll()
	var status := _tcp.get_status()
	if status == StreamPeerTCP.STATUS_CONNECTING:
		if Time.get_ticks_msec() - _since_ms > HANDSHAKE_MS:
			close("no answer within %d s" % (HANDSHAKE_MS / 1000))
		return
	if status != StreamPeerTCP.STATUS_CONNECTED:
		close(_why_closed())
		return
	if state == State.CONNECTING:
		_tcp.set_no_delay(true)
		state = State.GREETING
		_unsent.append_array(greeting("").slice(0, 11))
	_receive()
	if state != State.CLOSED:
		_flush()


## The parts of the next whole message, oldest first; empty when there is none.
func take() -> Array[PackedByteArray]:
	var message: Array[PackedByteArray] = []
	if not _messages.is_empty():
		message.assign(_messages.pop_front())
	return message


## Sends one message of one part.
func send(body: PackedByteArray) -> void:
	_unsent.append_array(frame(body))
	if state == State.READY:
		_flush()


## Asks a publisher for every message whose first part begins with [param topic].
func subscribe(topic: String) -> void:
	_unsent.append_array(command("SUBSCRIBE", topic.to_utf8_buffer()))


func unsubscribe(topic: String) -> void:
	_unsent.append_array(command("CANCEL", topic.to_utf8_buffer()))


## Our greeting, 64 bytes. [param mechanism] is "NULL" or "PLAIN".
static func greeting(mechanism: String) -> PackedByteArray:
	var bytes := PackedByteArray()
	bytes.resize(_GREETING_BYTES)
	bytes[0] = 0xff
	bytes[9] = 0x7f
	bytes[10] = 3
	bytes[11] = 1
	for i in mechanism.length():
		bytes[12 + i] = mechanism.unicode_at(i)
	return bytes


## One frame of a message, or a command, with its header.
static func frame(body: PackedByteArray, flags := 0) -> PackedByteArray:
	var bytes := PackedByteArray()
	if body.size() < 256:
		bytes.append(flags)
		bytes.append(body.size())
	else:
		bytes.append(flags | _LONG)
		for shift: int in [56, 48, 40, 32, 24, 16, 8, 0]:
			bytes.append((body.size() >> shift) & 0xff)
	bytes.append_array(body)
	return bytes


static func command(name: String, data := PackedByteArray()) -> PackedByteArray:
	var body := _short_text(name)
	body.append_array(data)
	return frame(body, _COMMAND)


## READY (NULL) or INITIATE (PLAIN), which say the type of our socket.
static func ready(name: String, socket_type: String) -> PackedByteArray:
	var data := _short_text("Socket-Type")
	data.append_array([0, 0, 0, socket_type.length()])
	data.append_array(socket_type.to_ascii_buffer())
	return command(name, data)


static func hello(token: String) -> PackedByteArray:
	var data := _short_text(USER)
	data.append_array(_short_text(token))
	return command("HELLO", data)


static func _short_text(text: String) -> PackedByteArray:
	var bytes := text.to_utf8_buffer()
	bytes.insert(0, bytes.size())
	return bytes


## Takes the address of the host when the system has found it.
func _resolve() -> void:
	var status := IP.RESOLVER_STATUS_ERROR
	if _query != IP.RESOLVER_INVALID_ID:
		status = IP.get_resolve_item_status(_query)
	match status:
		IP.RESOLVER_STATUS_WAITING:
			if Time.get_ticks_msec() - _since_ms > HANDSHAKE_MS:
				close("no address of %s within %d s" % [_host, HANDSHAKE_MS / 1000])
		IP.RESOLVER_STATUS_DONE:
			var addresses := IP.get_resolve_item_addresses(_query)
			# IPv4 first: the server binds 127.0.0.1, and "localhost" may name ::1 before it.
			var is_ipv4 := func(address: String) -> bool: return not address.contains(":")
			_connect((addresses.filter(is_ipv4) + addresses)[0])
		_:
			close("no such host: %s" % _host)


func _connect(address: String) -> void:
	_since_ms = Time.get_ticks_msec()
	_heard_ms = _since_ms
	_tcp = StreamPeerTCP.new()
	state = State.CONNECTING
	if _tcp.connect_to_host(address, _port) != OK:
		close("cannot connect to %s:%d" % [_host, _port])


func _why_closed() -> String:
	match state:
		State.CONNECTING:
			return "nobody answers there"
		State.READY:
			return "the server closed the connection"
	return "the server hung up during the handshake"


func _receive() -> void:
	var waiting := _tcp.get_available_bytes()
	var now := Time.get_ticks_msec()
	if waiting > 0:
		var got: Array = _tcp.get_partial_data(waiting)
		_heard_ms = now
		_inbox.append_array(got[1])
	elif state == State.READY and now - _heard_ms > SILENCE_MS:
		close("the server has been silent for %d s" % (SILENCE_MS / 1000))
		return
	elif state != State.READY and now - _since_ms > HANDSHAKE_MS:
		close("the server did not finish the handshake: is it Everscene?")
		return
	if state == State.GREETING:
		_read_greeting()
	while state == State.HANDSHAKE or state == State.READY:
		if not _read_frame():
			break
	_forget_read_bytes()


## The inbox is cut only when all of it is read or much of it is: cutting copies what is left.
func _forget_read_bytes() -> void:
	if _at == _inbox.size():
		_inbox.clear()
		_at = 0
	elif _at > 1 << 20:
		_inbox = _inbox.slice(_at)
		_at = 0


func _flush() -> void:
	if _unsent.is_empty():
		return
	if state != State.READY and state != State.GREETING and state != State.HANDSHAKE:
		return
	var put: Array = _tcp.put_partial_data(_unsent)
	if put[0] != OK:
		close("the server closed the connection")
		return
	_unsent = PackedByteArray() if put[1] == _unsent.size() else _unsent.slice(put[1])
	if _unsent.size() > MAX_UNSENT_BYTES:
		close("the server does not read what it is sent")


func _read_greeting() -> void:
	var count := _inbox.size()
	if (count > 0 and _inbox[0] != 0xff) or (count > 9 and _inbox[9] != 0x7f):
		close("the port answers, but not in ZeroMQ's language: is it Everscene?")
		return
	if count > 10 and _inbox[10] < 3:
		close("the server speaks ZMTP %d, too old" % _inbox[10])
		return
	if count < _GREETING_BYTES:
		return
	var mechanism := _inbox.slice(12, 32).get_string_from_ascii()
	_at = _GREETING_BYTES
	_plain = mechanism == "PLAIN"
	if _plain and _token.is_empty():
		token_is_wrong = true
		close("this server needs a token")
		return
	if not _plain and mechanism != "NULL":
		close("the server wants the mechanism %s, which no client of Everscene has" % mechanism)
		return
	state = State.HANDSHAKE
	_unsent.append_array(greeting(mechanism).slice(11))
	_unsent.append_array(hello(_token) if _plain else ready("READY", _socket_type))


## Takes one frame from the inbox. False: there is no whole one yet, or the connection ended.
func _read_frame() -> bool:
	var left := _inbox.size() - _at
	if left < 2:
		return false
	var flags := _inbox[_at]
	var length := _inbox[_at + 1]
	var head := 2
	if flags & _LONG:
		if left < 9:
			return false
		head = 9
		length = 0
		for i in 8:
			length = (length << 8) | _inbox[_at + 1 + i]
	if flags & ~(_MORE | _LONG | _COMMAND) or (flags & _COMMAND and flags & _MORE):
		close("a frame has the flags 0x%02x, which ZMTP does not know" % flags)
		return false
	if length < 0 or length > MAX_FRAME_BYTES:
		close("a frame of %d bytes is over the limit of %d" % [length, MAX_FRAME_BYTES])
		return false
	if left < head + length:
		return false
	var body := _inbox.slice(_at + head, _at + head + length)
	_at += head + length
	if flags & _COMMAND:
		_obey(body)
	elif state != State.READY:
		close("a message came before the handshake was over")
	else:
		_parts.append(body)
		if not flags & _MORE:
			_messages.append(_parts)
			_parts = []
	return state != State.CLOSED


func _obey(body: PackedByteArray) -> void:
	var name := body.slice(1, 1 + body[0]).get_string_from_ascii() if body.size() > 0 else ""
	# libzmq up to 4.3.5 writes "^RROR", with no length before it.
	if body.size() >= 5 and body.slice(1, 5).get_string_from_ascii() == "RROR":
		_fail_handshake(body.slice(6))
	elif name == "ERROR":
		_fail_handshake(body.slice(7))
	elif name == "READY":
		_begin_traffic(body.slice(6))
	elif name == "WELCOME" and _plain and state == State.HANDSHAKE:
		_unsent.append_array(ready("INITIATE", _socket_type))
	elif name == "PING" and body.size() >= 7:
		# Two bytes of TTL, then a context that goes back as it came. Ahead of nothing: in order.
		_unsent.append_array(command("PONG", body.slice(7)))


func _fail_handshake(reason: PackedByteArray) -> void:
	var text := reason.get_string_from_ascii()
	token_is_wrong = text == "400"
	close("the server refused the token" if token_is_wrong else "the server refused: %s" % text)


func _begin_traffic(metadata: PackedByteArray) -> void:
	if state != State.HANDSHAKE:
		return
	var type := _property(metadata, "socket-type")
	if type != _peer_type:
		close("the port belongs to a %s socket, not %s: is it the right one?" % [type, _peer_type])
		return
	state = State.READY


## The value of the property [param wanted] (lower case) in a READY's metadata.
static func _property(metadata: PackedByteArray, wanted: String) -> String:
	var at := 0
	while at < metadata.size():
		var name_end := at + 1 + metadata[at]
		if name_end + 4 > metadata.size():
			break
		var name := metadata.slice(at + 1, name_end).get_string_from_ascii()
		var length := 0
		for i in 4:
			length = (length << 8) | metadata[name_end + i]
		at = name_end + 4 + length
		if name.to_lower() == wanted:
			return metadata.slice(name_end + 4, at).get_string_from_ascii()
	return ""
