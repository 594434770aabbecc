extends SceneTree
## Runs a demo on a screen and writes what is to be seen, for the other side to compare:
## godot --path godot_client --script res://tests/shoot.gd -- scene=painting folder=DIR
## events=storm,night --endpoint=tcp://…
##
## For the start ("calm") and after each event it writes NAME.png (the window), NAME_frame.png (the
## frame in the texture) and, in shots.json, where the picture is in the window and how the event
## went. A courtyard's player walks to the events' places; a painting's events are sent.

const SETTLE_FRAMES := 24
## Beyond this without a new frame there will be none.
const LONGEST_WAIT_MS := 60_000

var _options := {}
var _shots := {}
var _stream: EversceneStream
var _demo: Node


func _initialize() -> void:
	for argument in OS.get_cmdline_user_args():
		if argument.contains("=") and not argument.begins_with("--"):
			_options[argument.get_slice("=", 0)] = argument.substr(argument.find("=") + 1)
	_run.call_deferred()


func _run() -> void:
	var scene: String = _options["scene"]
	var packed: PackedScene = load("res://demo/%s/%s.tscn" % [scene, scene])
	_demo = packed.instantiate()
	root.add_child(_demo)
	_stream = _demo.get_node("EversceneStream")
	await _frames_shown(SETTLE_FRAMES)
	await _shoot("start", null)
	for event in _options.get("events", "").split(",", false):
		var receipt: EversceneReceipt
		if _demo.has_method("walk_to_event"):
			receipt = await _demo.walk_to_event(event)
		else:
			receipt = _stream.send_event(event)
		await receipt.wait()
		await _frames_shown(SETTLE_FRAMES, receipt.frame)
		await _shoot(event, receipt)
	var file := FileAccess.open(_options["folder"] + "/shots.json", FileAccess.WRITE)
	file.store_string(JSON.stringify(_shots))
	file.close()
	_demo.queue_free()
	await process_frame
	quit()


## Waits until [param count] frames from [param first] on have been in the texture. Where no frame
## comes any more it ends the engine, with exit code 1.
func _frames_shown(count: int, first := 0) -> void:
	var shown := _stream.frame
	var last := -1
	var since_ms := Time.get_ticks_msec()
	while last < 0 or shown.number < last:
		await process_frame
		if _stream.frame != shown:
			shown = _stream.frame
			since_ms = Time.get_ticks_msec()
		elif Time.get_ticks_msec() - since_ms > LONGEST_WAIT_MS:
			printerr("no frame for %d s" % (LONGEST_WAIT_MS / 1000))
			quit(1)
		if last < 0 and shown != null and shown.number >= first:
			last = shown.number + count


func _shoot(shot_name: String, receipt: EversceneReceipt) -> void:
	await RenderingServer.frame_post_draw
	var frame := _stream.frame
	var window := root.get_texture().get_image()
	window.save_png("%s/%s.png" % [_options["folder"], shot_name])
	frame.image.save_png("%s/%s_frame.png" % [_options["folder"], shot_name])
	_shots[shot_name] = {
		"frame": frame.number,
		"prompt": frame.prompt,
		"corners": _corners(),
		"driver": RenderingServer.get_video_adapter_name(),
		"vulkan": RenderingServer.get_rendering_device() != null,
		"state": receipt.state if receipt != null else -1,
		"applied_frame": receipt.frame if receipt != null else 0,
		"latency_ms": receipt.latency_ms if receipt != null else 0.0,
	}


## Where the picture's corners are in the window's pixels: top left, top right, bottom right and
## bottom left.
func _corners() -> Array:
	var corners := []
	for corner: Vector2 in _demo.picture_corners():
		corners.append([corner.x, corner.y])
	return corners
