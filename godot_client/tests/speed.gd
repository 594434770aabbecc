extends SceneTree
## How much of the main thread a stream takes: godot --path godot_client --script
## res://tests/speed.gd -- endpoint=… seconds=60 folder=DIR playback=in_order
##
## One EversceneTexture on a full-window TextureRect. Writes speed.json: the time of the stream's
## _process in each frame of the game, the same without the time in which the main thread waited for
## a core, and which frames were shown or not.

const WARM_UP_S := 2.0
const LONGEST_WAIT_MS := 60_000

var _options := {}
var _costs := PackedInt32Array()
var _own_costs := PackedInt32Array()
var _upload_costs := PackedInt32Array()
var _numbers := PackedInt64Array()
var _game_frames := 0


func _initialize() -> void:
	for argument in OS.get_cmdline_user_args():
		_options[argument.get_slice("=", 0)] = argument.substr(argument.find("=") + 1)
	_run.call_deferred()


func _run() -> void:
	Engine.max_fps = int(_options["max_fps"])
	var stream := EversceneStream.new()
	stream.endpoint = _options["endpoint"]
	stream.playback = EversceneStream.Playback[_options["playback"].to_upper()]
	var picture := TextureRect.new()
	picture.texture = EversceneTexture.new()
	picture.set_anchors_preset(Control.PRESET_FULL_RECT)
	picture.expand_mode = TextureRect.EXPAND_IGNORE_SIZE
	root.add_child(picture)
	var before_stream := Clock.new()
	root.add_child(before_stream)
	root.add_child(stream)
	var after_stream := Clock.new()
	root.add_child(after_stream)
	var last := [0]
	stream.frame_received.connect(
		func(_texture: EversceneTexture, frame: EversceneFrame) -> void: last[0] = frame.number
	)
	while last[0] == 0:
		await process_frame
		if Time.get_ticks_msec() > LONGEST_WAIT_MS:
			printerr("no frame for %d s" % (LONGEST_WAIT_MS / 1000))
			quit(1)
	await create_timer(WARM_UP_S).timeout
	var before := stream.frame_counts()
	var began := Time.get_ticks_usec()
	var shown: int = last[0]
	while Time.get_ticks_usec() - began < float(_options["seconds"]) * 1e6:
		await process_frame
		_game_frames += 1
		_costs.append(stream.cost_usec)
		_own_costs.append(after_stream.ran_usec - before_stream.ran_usec)
		if last[0] != shown:
			shown = last[0]
			_numbers.append(shown)
			_upload_costs.append(stream.cost_usec)
	var after := stream.frame_counts()
	var result := {
		"seconds": (Time.get_ticks_usec() - began) / 1e6,
		"game_frames": _game_frames,
		"first": _numbers[0],
		"last": _numbers[-1],
		"shown": _numbers.size(),
		"torn": after["torn"] - before["torn"],
		"missed": after["missed"] - before["missed"],
		"skipped": after["skipped"] - before["skipped"],
		"cost_usec": _distribution(_costs),
		"own_cost_usec": _distribution(_own_costs),
		"cost_with_a_frame_usec": _distribution(_upload_costs),
		"size": [picture.texture.get_width(), picture.texture.get_height()],
		"driver": RenderingServer.get_video_adapter_name(),
	}
	var file := FileAccess.open(_options["folder"] + "/speed.json", FileAccess.WRITE)
	file.store_string(JSON.stringify(result))
	file.close()
	picture.queue_free()
	stream.queue_free()
	await process_frame
	quit()


static func _distribution(values: PackedInt32Array) -> Dictionary:
	var sorted := values.duplicate()
	sorted.sort()
	return {
		"p50": sorted[sorted.size() / 2],
		"p95": sorted[sorted.size() * 95 / 100],
		"max": sorted[-1],
	}


## Reads, in its _process, how long the main thread has been busy: the time less what it stood in
## line for a core behind other threads, such as a software renderer's. Linux tells that.
class Clock:
	extends Node
	var ran_usec := 0

	func _process(_delta: float) -> void:
		var waited_ns := 0
		var file := FileAccess.open("/proc/self/schedstat", FileAccess.READ)
		if file != null:
			waited_ns = int(file.get_line().get_slice(" ", 1))
		ran_usec = Time.get_ticks_usec() - waited_ns / 1000
