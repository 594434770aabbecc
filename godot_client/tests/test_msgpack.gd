extends "res://tests/test_case.gd"
## MessagePack against the golden vectors of the protocol.

const NEEDS := ["vectors"]
const Msgpack := preload("res://addons/everscene/core/msgpack.gd")

var _msgpack := Msgpack.new()


func test_every_golden_value_is_decoded() -> void:
	for entry: Dictionary in read_json(options["vectors"] + "/values.json"):
		var value: Variant = _msgpack.decode(entry["hex"].hex_decode())
		check_equal(_msgpack.failure, "", entry["name"])
		check_equal(value, entry["value"], entry["name"])


func test_the_encoder_writes_the_canonical_bytes() -> void:
	for entry: Dictionary in read_json(options["vectors"] + "/values.json"):
		if entry["canonical"]:
			check_equal(Msgpack.encode(entry["value"]).hex_encode(), entry["hex"], entry["name"])


func test_every_golden_message_is_decoded_and_encoded_again() -> void:
	var folder: String = options["vectors"] + "/messages/"
	for file in DirAccess.get_files_at(folder):
		if not file.ends_with(".msgpack"):
			continue
		var bytes := FileAccess.get_file_as_bytes(folder + file)
		var meaning: Dictionary = read_json(folder + file.get_basename() + ".json")
		check_equal(_msgpack.decode(bytes), meaning["message"], file)
		check_equal(Msgpack.encode(meaning["message"]), bytes, file + " encoded")


func test_every_cut_of_a_message_is_refused() -> void:
	var bytes := FileAccess.get_file_as_bytes(options["vectors"] + "/messages/welcome.msgpack")
	for length in bytes.size():
		check_equal(_msgpack.decode(bytes.slice(0, length)), null, "cut to %d" % length)
		check(not _msgpack.failure.is_empty(), "cut to %d says why" % length)


func test_bytes_left_over_are_refused() -> void:
	_msgpack.decode(PackedByteArray([0x01, 0x02]))
	check_equal(_msgpack.failure, "1 bytes are left over", "failure")


func test_a_length_beyond_the_end_costs_no_memory() -> void:
	for bytes: Array in [[0xdd, 0xff, 0xff, 0xff, 0xff], [0xdf, 0xff, 0xff, 0xff, 0xff]]:
		_msgpack.decode(PackedByteArray(bytes))
		check(not _msgpack.failure.is_empty(), "refused")


func test_deep_nesting_is_refused() -> void:
	var bytes := PackedByteArray()
	bytes.resize(100_000)
	bytes.fill(0x91)
	_msgpack.decode(bytes)
	check_equal(_msgpack.failure, "nested deeper than 32", "failure")


func test_an_unsigned_integer_beyond_63_bits_is_refused() -> void:
	_msgpack.decode("cfffffffffffffffff".hex_decode())
	check_equal(_msgpack.failure, "an integer is beyond 63 bits", "failure")


func test_random_bytes_do_no_harm() -> void:
	var random := RandomNumberGenerator.new()
	random.seed = 7
	for trial in 3000:
		var bytes := PackedByteArray()
		for i in random.randi_range(0, 40):
			# ASCII text only, so that the engine does not print each broken character.
			bytes.append(random.randi_range(0x80, 0xff) if random.randf() < 0.5 else 0x41)
		if not _has_text(bytes):
			_msgpack.decode(bytes)
			checks += 1


func test_types_without_a_place_in_a_message_are_named() -> void:
	check(Msgpack.can_encode({"a": [1, 2.5, "x", null, true]}), "plain values")
	check(not Msgpack.can_encode({"a": Vector2.ONE}), "a vector")
	check(not Msgpack.can_encode([NodePath("a")]), "a path inside a list")


static func _has_text(bytes: PackedByteArray) -> bool:
	for byte in bytes:
		if byte in [0xd9, 0xda, 0xdb] or (byte >= 0xa1 and byte < 0xc0):
			return true
	return false
