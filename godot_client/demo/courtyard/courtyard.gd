extends Node3D
## A courtyard with a portal and a sky, both generated: walk into a ring and the world beyond turns.
##
## Portal and sky share one EversceneTexture. The rings are Area3Ds with an EversceneTrigger. The
## courtyard's own light follows the picture: when it is night in there, it is night out here.

const Arguments := preload("res://demo/shared/arguments.gd")
const PictureLight := preload("res://demo/shared/picture_light.gd")

const HORIZON := 0.62
const LIGHT_SPEED := 2.0
const LINES_KEPT := 5

var _sky_color := Color(0.4, 0.5, 0.6)
var _ground_color := Color(0.3, 0.3, 0.3)
var _wanted_sky := _sky_color
var _wanted_ground := _ground_color
var _lines: Array[String] = []

@onready var stream: EversceneStream = $EversceneStream
@onready var player: CharacterBody3D = $Player
@onready var _environment: Environment = $WorldEnvironment.environment
@onready var _sun: DirectionalLight3D = $Sun
@onready var _portal_light: OmniLight3D = $Portal/Light
@onready var _prompt: Label = $Hud/Prompt
@onready var _receipts: Label = $Hud/Receipts


func _enter_tree() -> void:
	Arguments.apply($EversceneStream)


func _ready() -> void:
	$Hud/Status.stream = stream
	stream.prompt_changed.connect(func(prompt: String) -> void: _prompt.text = prompt)
	stream.frame_received.connect(_on_frame_received)
	for sigil in $Sigils.get_children():
		sigil.trigger.fired.connect(_follow)


func _process(delta: float) -> void:
	var part := minf(1.0, delta * LIGHT_SPEED)
	_sky_color = _sky_color.lerp(_wanted_sky, part)
	_ground_color = _ground_color.lerp(_wanted_ground, part)
	_environment.ambient_light_color = _sky_color
	_sun.light_color = _sky_color.lerp(Color(1.0, 0.95, 0.85), 0.4)
	_sun.light_energy = lerpf(0.05, 1.15, smoothstep(0.1, 0.75, _sky_color.get_luminance()))
	_portal_light.light_color = _sky_color.lerp(_ground_color, 0.5)
	_portal_light.light_energy = 1.0 + 2.0 * _sky_color.get_luminance()


## Sends the player into the ring of [param event] and returns the receipt of what it set off.
func walk_to_event(event: String) -> EversceneReceipt:
	for sigil in $Sigils.get_children():
		if sigil.trigger.event == event:
			player.goal = sigil.global_position
			return await sigil.trigger.fired
	return null


## Where the portal's corners are in the window's pixels: top left, top right, bottom right and
## bottom left.
func picture_corners() -> PackedVector2Array:
	var camera := get_viewport().get_camera_3d()
	var surface: MeshInstance3D = $Portal/Surface
	var half: Vector2 = surface.mesh.size * 0.5
	var corners := PackedVector2Array()
	for corner: Vector2 in [Vector2(-half.x, half.y), half, Vector2(half.x, -half.y), -half]:
		var place := surface.global_transform * Vector3(corner.x, corner.y, 0.0)
		corners.append(camera.unproject_position(place))
	return corners


func _on_frame_received(_texture: EversceneTexture, frame: EversceneFrame) -> void:
	_wanted_sky = PictureLight.mean_color(frame.image, 0.0, HORIZON)
	_wanted_ground = PictureLight.mean_color(frame.image, HORIZON, 1.0)


func _follow(receipt: EversceneReceipt) -> void:
	_say("%s …" % receipt.event)
	match await receipt.wait():
		EversceneReceipt.State.APPLIED:
			_say(
				(
					"%s: in the picture from frame %d, after %.0f ms"
					% [receipt.event, receipt.frame, receipt.latency_ms]
				)
			)
		EversceneReceipt.State.SUPERSEDED:
			_say("%s: overtaken by a later event" % receipt.event)
		EversceneReceipt.State.REJECTED:
			_say("%s: %s" % [receipt.event, receipt.reason])


func _say(line: String) -> void:
	_lines.append(line)
	if _lines.size() > LINES_KEPT:
		_lines.pop_front()
	_receipts.text = "\n".join(_lines)
