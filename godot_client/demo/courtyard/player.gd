extends CharacterBody3D
## Walks with WASD or the arrow keys, seen from behind; drag with the mouse to look around.

const SPEED := 4.2
const TURN_SPEED := 9.0
const LOOK_SPEED := 0.005
const ARRIVED_M := 0.25
const STRIDE := 9.0

## Where it goes by itself, until it is there or a key is pressed.
var goal := Vector3.INF

var _walked := 0.0

@onready var _pivot: Node3D = $Pivot
@onready var _body: Node3D = $Body


func _physics_process(delta: float) -> void:
	var direction := _wish()
	velocity = Vector3(direction.x * SPEED, velocity.y - 9.8 * delta, direction.z * SPEED)
	move_and_slide()
	if direction.length() > 0.1:
		_walked += delta * STRIDE
		var facing := atan2(-direction.x, -direction.z)
		_body.rotation.y = lerp_angle(_body.rotation.y, facing, minf(1.0, TURN_SPEED * delta))
	_body.position.y = absf(sin(_walked)) * 0.06


func _unhandled_input(event: InputEvent) -> void:
	if event is InputEventMouseMotion and event.button_mask & MOUSE_BUTTON_MASK_LEFT:
		_pivot.rotation.y -= event.relative.x * LOOK_SPEED
		_pivot.rotation.x = clampf(_pivot.rotation.x - event.relative.y * LOOK_SPEED, -0.7, 0.35)


func is_there() -> bool:
	return goal == Vector3.INF


## The direction in the world to walk in, at most 1 long.
func _wish() -> Vector3:
	var keys := Input.get_vector(&"ui_left", &"ui_right", &"ui_up", &"ui_down")
	keys.x += (
		float(Input.is_physical_key_pressed(KEY_D)) - float(Input.is_physical_key_pressed(KEY_A))
	)
	keys.y += (
		float(Input.is_physical_key_pressed(KEY_S)) - float(Input.is_physical_key_pressed(KEY_W))
	)
	if keys != Vector2.ZERO:
		goal = Vector3.INF
		var direction := Vector3(keys.x, 0.0, keys.y).rotated(Vector3.UP, _pivot.rotation.y)
		return direction.limit_length()
	if goal == Vector3.INF:
		return Vector3.ZERO
	var way := (goal - global_position) * Vector3(1, 0, 1)
	if way.length() < ARRIVED_M:
		goal = Vector3.INF
		return Vector3.ZERO
	return way.normalized()
