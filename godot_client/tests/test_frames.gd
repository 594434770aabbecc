extends "res://tests/test_case.gd"
## Writes a digest of each frame that arrives to frames.json, for the other side to compare.

const NEEDS := ["endpoint", "frames_from", "playback", "scratch"]
const COUNT := 60


func test_frames_arrive_in_rising_order() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.frames_from = EversceneStream.FramesFrom[options["frames_from"].to_upper()]
	stream.playback = EversceneStream.Playback[options["playback"].to_upper()]
	var digests := {}
	var numbers: Array[int] = []
	stream.frame_received.connect(
		func(_texture: EversceneTexture, frame: EversceneFrame) -> void:
			numbers.append(frame.number)
			digests[str(frame.number)] = _digest(frame.image)
	)
	add_child(stream)
	var count := int(options.get("count", COUNT))
	check(await wait_until(func() -> bool: return numbers.size() >= count, 30.0), "enough frames")
	for i in range(1, numbers.size()):
		check(numbers[i] > numbers[i - 1], "%d after %d" % [numbers[i], numbers[i - 1]])
	var expected: String = options.get("expect", options["frames_from"])
	var source := {"ring": "shared memory", "raw": "network, raw", "jpeg": "network, JPEG"}
	check_equal(stream.frames_source(), source[expected], "source")
	if options["playback"] == "in_order":
		check_equal(stream.frame_counts()["missed"], 0, "missed")
		check_equal(stream.frame_counts()["skipped"], 0, "skipped")
		check_equal(numbers.back() - numbers[0] + 1, numbers.size(), "none left out")
	var file := FileAccess.open(options["scratch"] + "/frames.json", FileAccess.WRITE)
	file.store_string(JSON.stringify(digests))
	file.close()


static func _digest(image: Image) -> String:
	var hashing := HashingContext.new()
	hashing.start(HashingContext.HASH_MD5)
	hashing.update(image.get_data())
	return hashing.finish().hex_encode()
