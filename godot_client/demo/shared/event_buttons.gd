extends GridContainer
## A button for every event of the scene, by group. A button glows from the press until the picture
## shows what it asked for.

const WAITING := Color(1.0, 0.82, 0.45)

var stream: EversceneStream:
	set(value):
		stream = value
		stream.scene_changed.connect(_show_scene)
		_show_scene(stream.scene)


func _show_scene(scene: Dictionary) -> void:
	for child in get_children():
		child.queue_free()
	var rows := {}
	for event: Dictionary in scene["events"]:
		if not rows.has(event["group"]):
			rows[event["group"]] = _add_row(event["group"])
		var button := Button.new()
		button.text = event["label"]
		button.pressed.connect(_send.bind(button, event["name"]))
		rows[event["group"]].add_child(button)


func _add_row(group: String) -> HBoxContainer:
	var row := HBoxContainer.new()
	row.add_theme_constant_override("separation", 6)
	var label := Label.new()
	label.text = group.to_upper()
	label.custom_minimum_size.x = 84
	label.horizontal_alignment = HORIZONTAL_ALIGNMENT_RIGHT
	label.add_theme_font_size_override("font_size", 12)
	label.add_theme_color_override("font_color", Color(0.82, 0.7, 0.48))
	row.add_child(label)
	add_child(row)
	return row


func _send(button: Button, event: String) -> void:
	button.modulate = WAITING
	await stream.send_event(event).wait()
	if is_instance_valid(button):
		create_tween().tween_property(button, "modulate", Color.WHITE, 0.6)
