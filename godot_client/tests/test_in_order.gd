extends "res://tests/test_case.gd"
## In order, with a delay: the prompt is that of the frame in the texture.

const NEEDS := ["endpoint"]


func test_the_prompt_changes_with_the_frame_that_bears_it() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.playback = EversceneStream.Playback.IN_ORDER
	stream.delay_frames = 6
	add_child(stream)
	check(await wait_until(func() -> bool: return stream.frame != null), "frames")
	var before := stream.prompt
	var prompts: Array[String] = []
	stream.prompt_changed.connect(
		func(prompt: String) -> void:
			prompts.append(prompt)
			check_equal(stream.frame.prompt, prompt, "the prompt of the frame in the texture")
	)
	var receipt := stream.send_event("storm")
	await receipt.wait()
	check(await wait_until(func() -> bool: return stream.frame.number > receipt.frame + 6), "shown")
	check(receipt.prompt != before, receipt.prompt)
	check_equal(prompts, [receipt.prompt] as Array[String], "one change")
