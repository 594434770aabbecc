extends Control
## Two demos to choose from. Escape leads back here.


func _ready() -> void:
	for demo: String in ["painting", "courtyard"]:
		var button: Button = get_node("Middle/Buttons/" + demo.capitalize())
		button.pressed.connect(_open.bind("res://demo/%s/%s.tscn" % [demo, demo]))


func _open(path: String) -> void:
	get_tree().change_scene_to_file(path)
