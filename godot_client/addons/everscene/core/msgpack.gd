# gdlint: disable=max-returns
extends RefCounted
## MessagePack, as much of it as docs/protocol.md §2 needs.
##
## A value is one byte that says its kind (and, for small ones, its length or the value itself),
## then a big-endian length where one is needed, then the bytes. A decoder accepts every width;
## the encoder writes the shortest, so its bytes equal those of the golden vectors.
## Integers stay within 63 bits, as the protocol promises: GDScript has no unsigned 64-bit type.

const MAX_DEPTH := 32
const _NAMES := {TYPE_NIL: "nil", TYPE_BOOL: "bool", TYPE_INT: "int", TYPE_FLOAT: "number"}

## Why the last decode() failed, for a person. Empty after a success.
var failure := ""

var _in := StreamPeerBuffer.new()


## The one value that [param bytes] hold. Returns null and sets [member failure] if they hold
## none, or if bytes are left over (null itself is a valid value: look at [member failure]).
func decode(bytes: PackedByteArray) -> Variant:
	failure = ""
	_in.big_endian = true
	_in.data_array = bytes
	_in.seek(0)
	var value: Variant = _read(0)
	if failure.is_empty() and _in.get_available_bytes() > 0:
		failure = "%d bytes are left over" % _in.get_available_bytes()
	return value if failure.is_empty() else null


## [param value] in MessagePack: null, bool, int, float, String, StringName, PackedByteArray,
## Array and Dictionary. The caller checks for other types with [method can_encode].
static func encode(value: Variant) -> PackedByteArray:
	var out := StreamPeerBuffer.new()
	out.big_endian = true
	_write(out, value)
	return out.data_array


static func can_encode(value: Variant) -> bool:
	match typeof(value):
		TYPE_ARRAY:
			return value.all(can_encode)
		TYPE_DICTIONARY:
			return value.keys().all(can_encode) and value.values().all(can_encode)
		TYPE_STRING, TYPE_STRING_NAME, TYPE_PACKED_BYTE_ARRAY:
			return true
	return _NAMES.has(typeof(value))


func _read(depth: int) -> Variant:
	if not _has(1) or depth > MAX_DEPTH:
		return _fail("nested deeper than %d" % MAX_DEPTH if depth > MAX_DEPTH else "")
	var kind := _in.get_u8()
	if kind < 0x80:
		return kind
	if kind < 0x90:
		return _read_map(kind & 0x0f, depth)
	if kind < 0xa0:
		return _read_list(kind & 0x0f, depth)
	if kind < 0xc0:
		return _read_text(kind & 0x1f)
	if kind >= 0xe0:
		return kind - 0x100
	if kind < 0xc4:
		return _read_constant(kind)
	if kind >= 0xca and kind <= 0xd3:
		return _read_number(kind)
	return _read_long(kind, depth)


func _read_constant(kind: int) -> Variant:
	if kind == 0xc0:
		return null
	if kind == 0xc1:
		return _fail("byte 0xc1 begins no value")
	return kind == 0xc3


func _read_number(kind: int) -> Variant:
	var bytes: int = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8][kind - 0xca]
	if not _has(bytes):
		return _fail()
	match kind:
		0xca:
			return _in.get_float()
		0xcb:
			return _in.get_double()
		0xcc:
			return _in.get_u8()
		0xcd:
			return _in.get_u16()
		0xce:
			return _in.get_u32()
		0xcf:
			var unsigned := _in.get_u64()
			return unsigned if unsigned >= 0 else _fail("an integer is beyond 63 bits")
		0xd0:
			return _in.get_8()
		0xd1:
			return _in.get_16()
		0xd2:
			return _in.get_32()
	return _in.get_64()


func _read_long(kind: int, depth: int) -> Variant:
	match kind:
		0xc4:
			return _read_bytes(_length(1))
		0xc5:
			return _read_bytes(_length(2))
		0xc6:
			return _read_bytes(_length(4))
		0xd9:
			return _read_text(_length(1))
		0xda:
			return _read_text(_length(2))
		0xdb:
			return _read_text(_length(4))
		0xdc:
			return _read_list(_length(2), depth)
		0xdd:
			return _read_list(_length(4), depth)
		0xde:
			return _read_map(_length(2), depth)
		0xdf:
			return _read_map(_length(4), depth)
	return _fail("kind 0x%02x (an extension) is not in the protocol" % kind)


## A length of [param width] bytes, or -1 when they are not there.
func _length(width: int) -> int:
	if not _has(width):
		return -1
	match width:
		1:
			return _in.get_u8()
		2:
			return _in.get_u16()
	return _in.get_u32()


func _read_text(length: int) -> Variant:
	if length < 0 or not _has(length):
		return _fail()
	return _in.get_utf8_string(length) if length > 0 else ""


func _read_bytes(length: int) -> Variant:
	if length < 0 or not _has(length):
		return _fail()
	return _in.get_data(length)[1] if length > 0 else PackedByteArray()


func _read_list(count: int, depth: int) -> Variant:
	# Each element takes a byte at least: a count beyond that is a lie, found before it costs memory.
	if count < 0 or not _has(count):
		return _fail()
	var list := []
	for i in count:
		list.append(_read(depth + 1))
		if not failure.is_empty():
			return null
	return list


func _read_map(count: int, depth: int) -> Variant:
	if count < 0 or not _has(2 * count):
		return _fail()
	var map := {}
	for i in count:
		var key: Variant = _read(depth + 1)
		if not failure.is_empty():
			return null
		map[key] = _read(depth + 1)
		if not failure.is_empty():
			return null
	return map


func _has(bytes: int) -> bool:
	return _in.get_available_bytes() >= bytes


func _fail(why := "") -> Variant:
	failure = why if not why.is_empty() else "it ends in the middle of a value"
	return null


static func _write(out: StreamPeerBuffer, value: Variant) -> void:
	match typeof(value):
		TYPE_NIL:
			out.put_u8(0xc0)
		TYPE_BOOL:
			out.put_u8(0xc3 if value else 0xc2)
		TYPE_INT:
			_write_int(out, value)
		TYPE_FLOAT:
			out.put_u8(0xcb)
			out.put_double(value)
		TYPE_STRING, TYPE_STRING_NAME:
			var text := str(value).to_utf8_buffer()
			_write_head(out, text.size(), 0xa0, 31, [0xd9, 0xda, 0xdb])
			out.put_data(text)
		TYPE_PACKED_BYTE_ARRAY:
			_write_head(out, value.size(), 0, -1, [0xc4, 0xc5, 0xc6])
			out.put_data(value)
		TYPE_ARRAY:
			_write_head(out, value.size(), 0x90, 15, [0, 0xdc, 0xdd])
			for element: Variant in value:
				_write(out, element)
		TYPE_DICTIONARY:
			_write_head(out, value.size(), 0x80, 15, [0, 0xde, 0xdf])
			for key: Variant in value:
				_write(out, key)
				_write(out, value[key])
		_:
			assert(false, "%s has no place in a message" % type_string(typeof(value)))


static func _write_int(out: StreamPeerBuffer, value: int) -> void:
	if value >= 0:
		if value < 0x80:
			out.put_u8(value)
		elif value < 0x100:
			out.put_u8(0xcc)
			out.put_u8(value)
		elif value < 0x10000:
			out.put_u8(0xcd)
			out.put_u16(value)
		elif value < 0x100000000:
			out.put_u8(0xce)
			out.put_u32(value)
		else:
			out.put_u8(0xcf)
			out.put_u64(value)
	elif value >= -0x20:
		out.put_8(value)
	elif value >= -0x80:
		out.put_u8(0xd0)
		out.put_8(value)
	elif value >= -0x8000:
		out.put_u8(0xd1)
		out.put_16(value)
	elif value >= -0x80000000:
		out.put_u8(0xd2)
		out.put_32(value)
	else:
		out.put_u8(0xd3)
		out.put_64(value)


## Kind and length: inside one byte up to [param small_max], else one of [param kinds] and a
## length of 1, 2 or 4 bytes. A kind of 0 means that MessagePack has no such width.
static func _write_head(
	out: StreamPeerBuffer, length: int, small: int, small_max: int, kinds: Array
) -> void:
	if length <= small_max:
		out.put_u8(small | length)
	elif length < 0x100 and kinds[0] != 0:
		out.put_u8(kinds[0])
		out.put_u8(length)
	elif length < 0x10000:
		out.put_u8(kinds[1])
		out.put_u16(length)
	else:
		out.put_u8(kinds[2])
		out.put_u32(length)
