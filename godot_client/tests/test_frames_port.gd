extends "res://tests/test_case.gd"
## A server that answers, and whose frames do not come: a person is told why, once.

const NEEDS := ["endpoint", "frames_from", "code", "reason"]


func test_frames_that_do_not_come_are_told_once() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.frames_from = EversceneStream.FramesFrom[options["frames_from"].to_upper()]
	var errors: Array[Array] = []
	stream.error.connect(func(c: String, reason: String) -> void: errors.append([c, reason]))
	add_child(stream)
	check(await wait_until(func() -> bool: return not errors.is_empty()), "an error")
	await wait_seconds(3.0)
	check(stream.is_live, "events can be sent all the same")
	check_equal(errors, [[options["code"], options["reason"]]] as Array[Array], "errors")
