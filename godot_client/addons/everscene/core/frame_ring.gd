# gdlint: disable=max-returns
extends RefCounted
## Reads the frame ring: one ordinary file of slots that the server writes and never waits for.
##
## A slot is guarded by its lock word: 2 × seq − 1 while frame number seq is being written,
## 2 × seq once it is whole. The reader copies the pixels and looks at the lock again: if it
## changed, the writer was faster and the copy is thrown away. Layout: docs/protocol.md §7.
##
## FileAccess reads through a buffer of the C library, and would give the same old bytes for ever.
## Seeking to the end first makes it read anew, on every platform's C library.

enum Slot { COMMITTED, TORN, GONE }

const MAGIC := "EVERRING"
const HEADER_BYTES := 4096
const DESCRIPTOR_BYTES := 128
const RGBA := 0x41424752
const STATE_CLOSED := 2
const MAX_SLOTS := 28
const MAX_SIDE := 16384

var path := ""
var ring_id := 0
var epoch := 0
var slot_count := 0
## Why open() failed, for a person.
var failure := ""
## What the last read() found. GONE: the slot holds another frame than the one asked for;
## TORN: it was overwritten during the copy.
var found := Slot.GONE
## Fields of the descriptor that the last successful read() copied.
var descriptor := {}

var _file: FileAccess
var _file_bytes := 0
var _descriptor_offset := 0
var _descriptor_stride := 0
var _data_offset := 0
var _slot_stride := 0
var _slot_capacity := 0


## Opens [param file_path] and checks its header. [param wanted_ring_id] 0 takes any.
func open(file_path: String, wanted_ring_id := 0) -> bool:
	close()
	path = file_path
	_file = FileAccess.open(file_path, FileAccess.READ)
	if _file == null:
		failure = "cannot open %s: %s" % [file_path, error_string(FileAccess.get_open_error())]
		return false
	failure = _check_header(_fresh(0, HEADER_BYTES), _file.get_length(), wanted_ring_id)
	if not failure.is_empty():
		_file = null
		return false
	return true


func close() -> void:
	_file = null
	descriptor = {}


func is_open() -> bool:
	return _file != null


## Frame number of the latest committed frame; 0 = none yet.
func latest() -> int:
	return _fresh(0x80, 8).decode_u64(0)


## The server's proof of life. Two equal readings 3 s apart mean that it is dead.
func heartbeat() -> int:
	return _fresh(0x88, 8).decode_u64(0)


## 0 starting, 1 live, 2 closed, 3 replaced, 4 error.
func state() -> int:
	return _fresh(0x90, 4).decode_u32(0)


## The pixels of frame number [param seq]: RGBA8, sRGB, top row first. Empty when the slot holds
## another frame or was overwritten during the copy; [member found] says which.
func read(seq: int) -> PackedByteArray:
	var slot := seq % slot_count
	var descriptor_at := _descriptor_offset + slot * _descriptor_stride
	var fields := read_descriptor(_fresh(descriptor_at, DESCRIPTOR_BYTES))
	found = Slot.GONE
	if fields["lock"] != 2 * seq or not _fits(fields):
		return PackedByteArray()
	var pixels := _fresh(_data_offset + slot * _slot_stride, fields["payload_bytes"])
	if _fresh(descriptor_at, 8).decode_u64(0) != 2 * seq:
		found = Slot.TORN
		return PackedByteArray()
	found = Slot.COMMITTED
	descriptor = fields
	return pixels


## The fields of a header, by the names of docs/protocol.md.
static func read_header(bytes: PackedByteArray) -> Dictionary:
	return {
		"magic": bytes.slice(0, 8).get_string_from_ascii(),
		"version": bytes.decode_u32(0x08),
		"header_bytes": bytes.decode_u32(0x0C),
		"file_bytes": bytes.decode_u64(0x10),
		"slot_count": bytes.decode_u32(0x18),
		"desc_offset": bytes.decode_u32(0x1C),
		"desc_stride": bytes.decode_u32(0x20),
		"data_offset": bytes.decode_u32(0x24),
		"slot_stride": bytes.decode_u64(0x28),
		"slot_capacity": bytes.decode_u64(0x30),
		"ring_id": bytes.decode_u64(0x38),
		"writer_pid": bytes.decode_u64(0x40),
		"created_unix_ns": bytes.decode_u64(0x48),
		"clock_offset_ns": bytes.decode_s64(0x50),
		"byte_order": bytes.decode_u32(0x58),
		"flags": bytes.decode_u32(0x5C),
		"epoch": bytes.decode_u64(0x60),
		"fps_numerator": bytes.decode_u32(0x68),
		"fps_denominator": bytes.decode_u32(0x6C),
		"latest_seq": bytes.decode_u64(0x80),
		"heartbeat_unix_ns": bytes.decode_u64(0x88),
		"state": bytes.decode_u32(0x90),
	}


## The fields of one slot descriptor, by the names of docs/protocol.md.
static func read_descriptor(bytes: PackedByteArray) -> Dictionary:
	return {
		"lock": bytes.decode_u64(0),
		"seq": bytes.decode_u64(8),
		"pts_ns": bytes.decode_s64(16),
		"commit_unix_ns": bytes.decode_s64(24),
		"width": bytes.decode_u32(32),
		"height": bytes.decode_u32(36),
		"stride_bytes": bytes.decode_u32(40),
		"payload_bytes": bytes.decode_u32(44),
		"fourcc": bytes.decode_u32(48),
		"primaries": bytes.decode_u8(52),
		"transfer": bytes.decode_u8(53),
		"matrix": bytes.decode_u8(54),
		"full_range": bytes.decode_u8(55),
		"flags": bytes.decode_u32(56),
		"crc32": bytes.decode_u32(60),
		"epoch": bytes.decode_u64(64),
		"order": bytes.decode_u64(72),
		"generation_us": bytes.decode_u32(80),
		"index": bytes.decode_u32(84),
		"chunk": bytes.decode_u64(88),
	}


## [param length] bytes at [param offset], not from any buffer.
func _fresh(offset: int, length: int) -> PackedByteArray:
	_file.seek_end(0)
	_file.seek(offset)
	var bytes := _file.get_buffer(length)
	if bytes.size() < length:
		bytes.resize(length)  # The file was cut short: zeros read as an empty slot.
	return bytes


func _check_header(bytes: PackedByteArray, actual_bytes: int, wanted_ring_id: int) -> String:
	var header := read_header(bytes)
	if header["magic"] != MAGIC:
		return "%s is no frame ring" % path
	if header["version"] >> 16 != 1:
		return "%s has ring version %d, this addon reads 1" % [path, header["version"] >> 16]
	if header["byte_order"] != 0x01020304:
		return "%s was written by a machine of the other byte order" % path
	if wanted_ring_id != 0 and header["ring_id"] != wanted_ring_id:
		return "%s is another ring than the server's" % path
	slot_count = header["slot_count"]
	_descriptor_offset = header["desc_offset"]
	_descriptor_stride = header["desc_stride"]
	_data_offset = header["data_offset"]
	_slot_stride = header["slot_stride"]
	_slot_capacity = header["slot_capacity"]
	_file_bytes = header["file_bytes"]
	ring_id = header["ring_id"]
	epoch = header["epoch"]
	var last_descriptor := _descriptor_offset + slot_count * _descriptor_stride
	var sound := slot_count >= 3 and slot_count <= MAX_SLOTS
	sound = sound and _descriptor_stride >= DESCRIPTOR_BYTES and last_descriptor <= _data_offset
	sound = sound and _slot_capacity <= _slot_stride and _slot_stride > 0
	sound = sound and _data_offset + slot_count * _slot_stride <= _file_bytes
	if not sound:
		return "%s has a header whose numbers do not fit together" % path
	if actual_bytes < _file_bytes:
		return "%s is shorter than its header says" % path
	return ""


func _fits(fields: Dictionary) -> bool:
	var width: int = fields["width"]
	var height: int = fields["height"]
	return (
		fields["fourcc"] == RGBA
		and width > 0
		and width <= MAX_SIDE
		and height > 0
		and height <= MAX_SIDE
		and fields["stride_bytes"] == width * 4
		and fields["payload_bytes"] == width * height * 4
		and fields["payload_bytes"] <= _slot_capacity
	)
