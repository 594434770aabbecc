extends "res://tests/test_case.gd"
## Nodes, texture and dock, without any server.

const NEEDS := ["scratch", "vectors"]
const Dock := preload("res://addons/everscene/editor/dock.gd")
const Messages := preload("res://addons/everscene/core/messages.gd")


func test_a_texture_is_filled_by_the_stream_of_its_name() -> void:
	var main := EversceneTexture.new()
	var other := EversceneTexture.new()
	other.stream = &"other"
	check(EversceneTexture.of(&"main").has(main), "main has it")
	check_equal(EversceneTexture.of(&"other"), [other] as Array[EversceneTexture], "other")
	other = null
	check_equal(EversceneTexture.of(&"other"), [] as Array[EversceneTexture], "freed ones are gone")


func test_a_saved_texture_holds_its_settings_and_no_picture() -> void:
	var texture := EversceneTexture.new()
	texture.stream = &"garden"
	texture.waiting_color = Color.DARK_GREEN
	texture.show_image(Image.create(64, 36, false, Image.FORMAT_RGBA8))
	var path: String = options["scratch"] + "/texture.tres"
	check_equal(ResourceSaver.save(texture, path), OK, "saved")
	check(not FileAccess.get_file_as_string(path).contains("image"), "no picture in the file")
	var loaded: EversceneTexture = ResourceLoader.load(path, "", ResourceLoader.CACHE_MODE_IGNORE)
	check_equal(loaded.stream, &"garden", "name")
	check_equal(loaded.waiting_color, Color.DARK_GREEN, "colour")


func test_a_texture_keeps_its_identity_when_the_size_changes() -> void:
	var texture := EversceneTexture.new()
	var before := texture.get_rid()
	for size: Vector2i in [Vector2i(64, 36), Vector2i(33, 7), Vector2i(64, 36)]:
		texture.show_image(Image.create(size.x, size.y, false, Image.FORMAT_RGBA8))
		check_equal(Vector2i(texture.get_size()), size, "size")
		check_equal(texture.get_rid(), before, "materials need not be told")


func test_a_stream_without_a_texture_makes_one() -> void:
	var stream := EversceneStream.new()
	stream.stream_name = &"lonely"
	var texture := stream.texture
	check_equal(EversceneTexture.of(&"lonely"), [texture] as Array[EversceneTexture], "made")
	check_equal(stream.texture, texture, "and kept")
	stream.free()


func test_warnings_say_what_is_missing() -> void:
	var trigger := EversceneTrigger.new()
	add_child(trigger)
	check_equal(trigger._get_configuration_warnings().size(), 2, "no parent, no event")
	remove_child(trigger)
	var area := Area2D.new()
	area.add_child(trigger)
	trigger.event = &"storm"
	add_child(area)
	check_equal(trigger._get_configuration_warnings().size(), 0, "both there")
	var stream := EversceneStream.new()
	stream.auto_connect = false
	stream.endpoint = "127.0.0.1:7464"
	stream.stream_name = &""
	check_equal(stream._get_configuration_warnings().size(), 2, "endpoint and name")
	stream.free()


func test_two_streams_of_one_name_are_warned_about() -> void:
	var first := EversceneStream.new()
	var second := EversceneStream.new()
	for stream: EversceneStream in [first, second]:
		stream.auto_connect = false
		add_child(stream)
	check_equal(first._get_configuration_warnings().size(), 1, "same name")
	second.stream_name = &"second"
	check_equal(first._get_configuration_warnings().size(), 0, "different names")
	check_equal(EversceneStream.find(self, &"second"), second, "found by name")
	check_equal(EversceneStream.find(self), first, "the first one without a name")


func test_a_trigger_has_a_cooldown_and_can_be_for_once() -> void:
	var stream := EversceneStream.new()
	stream.auto_connect = false
	add_child(stream)
	var trigger := EversceneTrigger.new()
	trigger.event = &"storm"
	trigger.cooldown_s = 60.0
	add_child(trigger)
	check(trigger.fire() != null, "first")
	check(trigger.fire() == null, "within the cooldown")
	trigger.cooldown_s = 0.0
	trigger.once = true
	trigger._quiet_until_ms = 0
	check(trigger.fire() == null, "once only")


func test_a_pressed_button_fires_its_trigger() -> void:
	var stream := EversceneStream.new()
	stream.auto_connect = false
	add_child(stream)
	var button := Button.new()
	var trigger := EversceneTrigger.new()
	trigger.event = &"storm"
	button.add_child(trigger)
	add_child(button)
	var sent: Array[EversceneReceipt] = []
	trigger.fired.connect(func(receipt: EversceneReceipt) -> void: sent.append(receipt))
	button.pressed.emit()
	check_equal(sent.size(), 1, "sent")
	check_equal(await sent[0].wait(), EversceneReceipt.State.REJECTED, "nobody is there")
	check_equal(sent[0].code, "not_connected", "code")


func test_the_dock_has_a_button_for_each_event() -> void:
	var dock := Dock.new()
	add_child(dock)
	var meaning: Dictionary = read_json(options["vectors"] + "/messages/welcome.json")
	dock.show_scene(Messages.tidy_scene(meaning["message"]["scene"]))
	var labels: Array[String] = []
	for button: Button in dock.find_children("*", "Button", true, false):
		labels.append(button.text)
	check(labels.has("Storm") and labels.has("Banner"), str(labels))


func test_the_docks_stream_is_in_no_scenes_way_also_after_a_move() -> void:
	var dock := Dock.new()
	add_child(dock)
	var place := Node.new()
	add_child(place)
	dock.reparent(place)
	check_equal(EversceneStream.find(self), null, "no stream is found")


func test_a_scene_full_of_holes_is_tidied() -> void:
	var scene := Messages.tidy_scene(
		{"events": [{"name": "a"}, {"label": "no name"}, 5, {"name": "b", "params": [{}, 3]}]}
	)
	check_equal(scene["events"].size(), 2, "events with a name")
	check_equal(scene["events"][0]["label"], "A", "label")
	check_equal(scene["events"][1]["params"], [], "params")
	check_equal(scene["slots"], [], "slots")


func test_a_scenes_slots_are_tidied_too() -> void:
	var slots := [{"name": "sky", "default": "clear", "choices": ["clear"]}, {"name": "any"}, {}, 5]
	var expected := [
		{"name": "sky", "default": "clear", "choices": ["clear"]},
		{"name": "any", "default": "", "choices": []},
	]
	check_equal(Messages.tidy_scene({"slots": slots})["slots"], expected, "slots")
