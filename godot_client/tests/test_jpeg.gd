extends "res://tests/test_case.gd"
## Writes some frames that came as JPEG to jpeg.json, for the other side to compare.

const NEEDS := ["endpoint", "scratch"]


func test_jpeg_frames_are_decoded_to_rgba() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.frames_from = EversceneStream.FramesFrom.JPEG
	var pictures := {}
	stream.frame_received.connect(
		func(_texture: EversceneTexture, frame: EversceneFrame) -> void:
			check_equal(frame.image.get_format(), Image.FORMAT_RGBA8, "format")
			pictures[str(frame.number)] = Marshalls.raw_to_base64(frame.image.get_data())
	)
	add_child(stream)
	check(await wait_until(func() -> bool: return pictures.size() >= 10), "frames")
	check_equal(stream.frames_source(), "network, JPEG", "source")
	var file := FileAccess.open(options["scratch"] + "/jpeg.json", FileAccess.WRITE)
	file.store_string(JSON.stringify(pictures))
	file.close()
