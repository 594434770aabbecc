@tool
extends EditorPlugin
## Adds the Everscene dock to the editor. The nodes and the texture work without it.

const Dock := preload("editor/dock.gd")

var _dock: Dock


func _enter_tree() -> void:
	_dock = Dock.new()
	_dock.name = "Everscene"
	add_control_to_dock(DOCK_SLOT_RIGHT_BL, _dock)
	scene_changed.connect(_dock.look_at_scene)
	_dock.look_at_scene(get_editor_interface().get_edited_scene_root())


func _exit_tree() -> void:
	scene_changed.disconnect(_dock.look_at_scene)
	remove_control_from_docks(_dock)
	_dock.queue_free()
