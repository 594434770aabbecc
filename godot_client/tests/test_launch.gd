extends "res://tests/test_case.gd"
## The stream starts the sidecar when nobody answers, and stops it when it goes.

const NEEDS := ["endpoint", "program", "frames_port", "scratch"]


func test_the_sidecar_is_started_and_stopped() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = options["endpoint"]
	stream.launch_sidecar = true
	stream.sidecar_command = options["program"]
	stream.sidecar_arguments = ["serve", "--model", "pattern", "--no-viewer"]
	stream.sidecar_arguments.append_array(["--frames-port", options["frames_port"]])
	stream.sidecar_arguments.append_array(["--ring-dir", options["scratch"]])
	add_child(stream)
	check(await wait_until(func() -> bool: return stream.frame != null, 60.0), "frames")
	var ring: String = stream.info["ring"]["path"]
	check(FileAccess.file_exists(ring), "its ring is there")
	stream.queue_free()
	check(await wait_until(func() -> bool: return not FileAccess.file_exists(ring), 15.0), "gone")


func test_a_program_that_is_not_there_is_told() -> void:
	var stream := EversceneStream.new()
	stream.endpoint = "tcp://127.0.0.1:1"
	stream.launch_sidecar = true
	stream.sidecar_command = "/nowhere/everscene"
	var codes: Array[String] = []
	stream.error.connect(func(code: String, _reason: String) -> void: codes.append(code))
	add_child(stream)
	check(await wait_until(func() -> bool: return codes.has("sidecar")), str(codes))
