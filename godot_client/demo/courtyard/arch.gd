@tool
extends MultiMeshInstance3D
## The stones of an arch: two pillars and the ring of wedges above them.

@export var opening := Vector2(6.0, 4.5):
	set(value):
		opening = value
		_build()
## Part of a half circle's height that the round part has.
@export_range(0.2, 1.0) var flatness := 0.62:
	set(value):
		flatness = value
		_build()
@export var stone := Vector3(0.62, 0.52, 0.9)
@export_range(5, 41) var wedges := 19


func _ready() -> void:
	_build()


func _build() -> void:
	if multimesh == null:
		return
	var places: Array[Transform3D] = []
	var radius := opening.x * 0.5
	var spring := opening.y - radius * flatness
	var courses := int(ceil(spring / stone.y))
	for course in courses:
		var y := (course + 0.5) * spring / courses
		for side: float in [-1.0, 1.0]:
			var wide := stone.x * (1.25 if course % 2 == 0 else 1.0)
			var size := Vector3(wide, spring / courses - 0.03, stone.z)
			var at := Vector3(side * (radius + wide * 0.5), y, 0.0)
			places.append(Transform3D(Basis.from_scale(size), at))
	for i in wedges:
		var angle := PI * (i + 0.5) / wedges
		var keystone := 1.35 if i == wedges / 2 else 1.0
		var middle := radius + stone.x * 0.5 * keystone
		var at := Vector3(cos(angle) * middle, spring + sin(angle) * middle * _squash(middle), 0.0)
		var outward := Vector3(cos(angle), sin(angle) / flatness, 0.0).normalized()
		var width := PI * middle / wedges * lerpf(0.72, 1.0, absf(cos(angle))) - 0.035
		var basis := Basis(outward, Vector3(-outward.y, outward.x, 0.0), Vector3.BACK)
		var size := Vector3(stone.x * keystone, maxf(0.2, width), stone.z * keystone)
		places.append(Transform3D(basis * Basis.from_scale(size), at))
	multimesh.instance_count = places.size()
	for i in places.size():
		multimesh.set_instance_transform(i, places[i])
		multimesh.set_instance_color(
			i, Color.from_hsv(0.08, 0.12, 0.42 + 0.16 * fmod(i * 0.618, 1.0))
		)


## So that the inner face of the wedges follows the flattened opening.
func _squash(middle: float) -> float:
	var radius := opening.x * 0.5
	return (radius * flatness + middle - radius) / middle
