extends "res://tests/test_case.gd"
## The ring reader against golden headers, and against a file that changes under it.

const NEEDS := ["vectors", "scratch"]
const FrameRing := preload("res://addons/everscene/core/frame_ring.gd")


func test_every_field_of_the_golden_rings_is_read() -> void:
	for name: String in ["fresh", "live", "writing"]:
		var bytes := FileAccess.get_file_as_bytes(_golden(name))
		var meaning: Dictionary = read_json(_golden(name).replace(".bin", ".json"))
		check_equal(FrameRing.read_header(bytes), meaning["header"], name)
		for i in meaning["slots"].size():
			var fields := FrameRing.read_descriptor(bytes.slice(0x200 + 128 * i))
			if meaning["slots"][i] == null:
				check_equal(fields["lock"], 0, "%s slot %d is empty" % [name, i])
			else:
				check_equal(fields, meaning["slots"][i], "%s slot %d" % [name, i])


func test_a_committed_frame_is_read() -> void:
	var ring := _open("live")
	check_equal(ring.latest(), 5, "latest")
	var pixels := ring.read(5)
	check_equal(ring.found, FrameRing.Slot.COMMITTED, "found")
	check_equal(pixels.size(), 720, "bytes")
	check_equal(pixels[0], 5 % 3 + 1, "first byte of slot 2")
	check_equal(ring.descriptor["chunk"], 1, "chunk")


func test_a_slot_that_is_being_written_is_not_read() -> void:
	var ring := _open("writing")
	check(ring.read(3).is_empty(), "no pixels")
	check_equal(ring.found, FrameRing.Slot.GONE, "found")


func test_a_frame_that_is_gone_is_not_read() -> void:
	var ring := _open("live")
	check(ring.read(2).is_empty(), "frame 2 was overwritten by frame 5")
	check(ring.read(6).is_empty(), "frame 6 is not there yet")


func test_what_the_writer_changes_is_seen_at_once() -> void:
	var ring := _open("live")
	var writer := FileAccess.open(_path("live"), FileAccess.READ_WRITE)
	for seq in range(6, 200):
		writer.seek(0x80)
		writer.store_64(seq)
		writer.flush()
		check_equal(ring.latest(), seq, "latest")


func test_another_ring_id_is_refused() -> void:
	_write("live", _bytes("live"))
	var ring := FrameRing.new()
	check(not ring.open(_path("live"), 99), "refused")
	check(ring.failure.ends_with("is another ring than the server's"), ring.failure)


func test_a_broken_header_is_refused_with_the_reason() -> void:
	var breakages := {
		"is no frame ring": [0x00, 0x58],
		"has ring version 2": [0x0A, 0x02],
		"was written by a machine of the other byte order": [0x58, 0x01],
		"has a header whose numbers do not fit together": [0x18, 0xff],
	}
	for reason: String in breakages:
		var bytes := _bytes("live")
		bytes[breakages[reason][0]] = breakages[reason][1]
		_write("broken", bytes)
		var ring := FrameRing.new()
		check(not ring.open(_path("broken")), reason)
		check(ring.failure.contains(reason), ring.failure)


func test_a_file_that_is_too_short_is_refused() -> void:
	_write("short", _bytes("live").slice(0, 100_000))
	var ring := FrameRing.new()
	check(not ring.open(_path("short")), "refused")
	check(ring.failure.ends_with("is shorter than its header says"), ring.failure)


func test_no_file_is_a_reason() -> void:
	var ring := FrameRing.new()
	check(not ring.open(options["scratch"] + "/nowhere.ring"), "refused")
	check(ring.failure.begins_with("cannot open"), ring.failure)


func test_a_descriptor_that_lies_about_its_size_is_not_read() -> void:
	for wrong: Array in [[44, 0xffffff], [32, 0], [36, 1 << 30], [40, 79]]:
		var bytes := _bytes("live")
		bytes.encode_u32(0x200 + 128 * 2 + wrong[0], wrong[1])
		_write("lying", bytes)
		var ring := FrameRing.new()
		check(ring.open(_path("lying")), ring.failure)
		check(ring.read(5).is_empty(), "field at +%d" % wrong[0])


func _golden(name: String) -> String:
	return "%s/ring/%s.bin" % [options["vectors"], name]


func _path(name: String) -> String:
	return "%s/%s.ring" % [options["scratch"], name]


## A whole ring file: the golden header, then three slots filled with 1, 2 and 3.
func _bytes(name: String) -> PackedByteArray:
	var bytes := FileAccess.get_file_as_bytes(_golden(name))
	bytes.resize(65536)
	for slot in 3:
		var pixels := PackedByteArray()
		pixels.resize(65536)
		pixels.fill(slot + 1)
		bytes.append_array(pixels)
	return bytes


func _write(name: String, bytes: PackedByteArray) -> void:
	var file := FileAccess.open(_path(name), FileAccess.WRITE)
	file.store_buffer(bytes)
	file.close()


func _open(name: String) -> FrameRing:
	_write(name, _bytes(name))
	var ring := FrameRing.new()
	check(ring.open(_path(name)), ring.failure)
	return ring
