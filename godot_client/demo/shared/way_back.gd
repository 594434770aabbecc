extends Node
## Escape leads back to the menu.


func _unhandled_key_input(event: InputEvent) -> void:
	if event.is_action_pressed(&"ui_cancel"):
		get_tree().change_scene_to_file("res://demo/menu.tscn")
