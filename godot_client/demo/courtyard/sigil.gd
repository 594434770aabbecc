extends Area3D
## A ring on the ground that sends an event when the player walks into it. The sending is done by
## the EversceneTrigger below it; this only makes the ring shine.

@export var color := Color(0.5, 0.8, 1.0)
## Points of the star in the ring.
@export_range(3, 9) var points := 6

var _material: ShaderMaterial
var _awake := 0.0

@onready var trigger: EversceneTrigger = $EversceneTrigger


func _ready() -> void:
	_material = $Ring.material_override.duplicate()
	_material.set_shader_parameter("color", color)
	_material.set_shader_parameter("points", float(points))
	$Ring.material_override = _material
	$Name.text = str(trigger.event).capitalize()
	$Name.modulate = color.lerp(Color.WHITE, 0.35)
	$Glow.light_color = color


func _process(delta: float) -> void:
	var wanted := 1.0 if has_overlapping_bodies() else 0.0
	_awake = move_toward(_awake, wanted, delta * 2.5)
	_material.set_shader_parameter("awake", _awake)
	$Name.modulate.a = 1.0 - _awake
	$Name.outline_modulate.a = 1.0 - _awake
	$Glow.light_energy = lerpf(0.35, 2.2, _awake)
