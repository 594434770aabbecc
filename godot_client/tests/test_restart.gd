extends "res://tests/test_case.gd"
## The other side kills the sidecar when it finds the file "live", and starts it anew at "down".

const NEEDS := ["endpoint", "scratch"]


func test_the_stream_comes_back_after_a_kill() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	var reasons: Array[String] = []
	stream.disconnected.connect(func(reason: String) -> void: reasons.append(reason))
	add_child(stream)
	check(await wait_until(func() -> bool: return stream.frame != null, 30.0), "frames")
	var epoch: int = stream.info["epoch"]
	FileAccess.open(options["scratch"] + "/live", FileAccess.WRITE).close()
	check(await wait_until(func() -> bool: return reasons.size() == 1, 20.0), "disconnected")
	check(stream.texture.has_frame, "the last picture stands")
	FileAccess.open(options["scratch"] + "/down", FileAccess.WRITE).close()
	check(await wait_until(func() -> bool: return stream.is_live, 40.0), "live again")
	check(stream.info["epoch"] != epoch, "another epoch")
	var is_new := func() -> bool: return stream.frame.epoch == stream.info["epoch"]
	check(await wait_until(is_new, 20.0), "new frames")
	check_equal(await stream.send_event("storm").wait(), EversceneReceipt.State.APPLIED, "an event")
