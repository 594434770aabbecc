extends "res://tests/test_case.gd"
## The stream starts the sidecar when nobody answers, and stops it when it goes.

const NEEDS := ["endpoint", "program", "frames_port", "scratch"]


func test_the_sidecar_is_started_and_stopped() -> void:
	var stream := await _launch()
	var ring: String = stream.info["ring"]["path"]
	check(FileAccess.file_exists(ring), "its ring is there")
	stream.queue_free()
	check(await _until_gone(ring), "gone")


func test_the_sidecar_outlives_a_move_in_the_tree() -> void:
	var stream := await _launch()
	var epoch: int = stream.info["epoch"]
	var place := Node.new()
	add_child(place)
	stream.reparent(place)
	check(await wait_until(func() -> bool: return stream.is_live, 20.0), "live after the move")
	check_equal(stream.info["epoch"], epoch, "the same server start")
	place.queue_free()
	check(
		await _until_gone(stream.info["ring"]["path"]), "it goes with the stream, wherever that is"
	)


func test_the_sidecar_of_a_stream_outside_the_tree_ends_with_the_game() -> void:
	var stream := await _launch()
	var ring: String = stream.info["ring"]["path"]
	remove_child(stream)
	await wait_seconds(0.5)
	check(FileAccess.file_exists(ring), "it waits for the stream to come back")
	get_tree().root.tree_exiting.emit()
	check(await _until_gone(ring), "gone")
	stream.free()


func test_a_program_that_is_not_there_is_told() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = "tcp://127.0.0.1:1"
	stream.launch_sidecar = true
	stream.sidecar_command = "/nowhere/everscene"
	var codes: Array[String] = []
	stream.error.connect(func(code: String, _reason: String) -> void: codes.append(code))
	add_child(stream)
	check(await wait_until(func() -> bool: return codes.has("sidecar")), str(codes))


## A stream whose sidecar has been started and sends frames.
func _launch() -> EversceneStream:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.launch_sidecar = true
	stream.sidecar_command = options["program"]
	stream.sidecar_arguments = ["serve", "--model", "pattern", "--no-viewer"]
	stream.sidecar_arguments.append_array(["--frames-port", options["frames_port"]])
	stream.sidecar_arguments.append_array(["--ring-dir", options["scratch"]])
	add_child(stream)
	check(await wait_until(func() -> bool: return stream.frame != null, 60.0), "frames")
	return stream


func _until_gone(ring: String) -> bool:
	return await wait_until(func() -> bool: return not FileAccess.file_exists(ring), 15.0)
