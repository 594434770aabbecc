extends Control
## A living painting on a gallery wall: press a button, or write what it shall show.
##
## The picture is a TextureRect with an EversceneTexture. All that this script does for it is to lay
## out the frame; the light on the wall is the mean colour of the frame that is shown.

const Arguments := preload("res://demo/shared/arguments.gd")
const PictureLight := preload("res://demo/shared/picture_light.gd")

const FRAME_WIDTH := 46.0
const ASPECT := 16.0 / 9.0
const GLOW_SPEED := 4.0

var _glow := Color(0.1, 0.1, 0.12)
var _wanted_glow := _glow

@onready var stream: EversceneStream = $EversceneStream
@onready var picture: TextureRect = $Frame/Picture
@onready var _wall: ColorRect = $Wall
@onready var _frame: Control = $Frame
@onready var _gilding: ColorRect = $Frame/Gilding
@onready var _lamp: Control = $Lamp
@onready var _controls: Control = $Controls
@onready var _plaque: Control = $Plaque
@onready var _title: Label = $Plaque/Title
@onready var _line: LineEdit = $Controls/Line


func _enter_tree() -> void:
	Arguments.apply($EversceneStream)


func _ready() -> void:
	$Controls/Buttons.stream = stream
	$Controls/Status.stream = stream
	stream.prompt_changed.connect(func(prompt: String) -> void: _title.text = prompt)
	stream.frame_received.connect(_on_frame_received)
	_line.text_submitted.connect(_on_text_submitted)
	resized.connect(_lay_out)
	_controls.minimum_size_changed.connect(_lay_out)
	_lay_out()


func _process(delta: float) -> void:
	_glow = _glow.lerp(_wanted_glow, minf(1.0, delta * GLOW_SPEED))
	_wall.material.set_shader_parameter("glow", _glow)


## The largest 16:9 picture with its frame that leaves room for the plaque and the controls.
func _lay_out() -> void:
	var controls_top := size.y - _controls.get_combined_minimum_size().y - 26.0
	var room := Vector2(size.x - 160.0, controls_top - 150.0) - Vector2.ONE * 2.0 * FRAME_WIDTH
	var picture_size := Vector2(minf(room.x, room.y * ASPECT), 0.0)
	picture_size.y = picture_size.x / ASPECT
	picture_size = picture_size.max(Vector2(160.0, 90.0)).round()
	_frame.size = picture_size + Vector2.ONE * 2.0 * FRAME_WIDTH
	_frame.position = Vector2((size.x - _frame.size.x) * 0.5, 64.0).round()
	_gilding.material.set_shader_parameter("size", _frame.size)
	_gilding.material.set_shader_parameter("width", FRAME_WIDTH)
	picture.position = Vector2.ONE * FRAME_WIDTH
	picture.size = picture_size
	_lamp.size = Vector2(picture_size.x * 0.36, 12.0)
	_lamp.position = Vector2((size.x - _lamp.size.x) * 0.5, 26.0)
	_plaque.position = Vector2(
		(size.x - _plaque.size.x) * 0.5, _frame.position.y + _frame.size.y + 14.0
	)
	_controls.position = Vector2((size.x - _controls.size.x) * 0.5, controls_top)
	_wall.material.set_shader_parameter("size", size)
	_wall.material.set_shader_parameter("rail", controls_top - 18.0)
	var outline := Vector4(_frame.position.x, _frame.position.y, _frame.size.x, _frame.size.y)
	_wall.material.set_shader_parameter("frame", outline)


func _on_frame_received(_texture: EversceneTexture, frame: EversceneFrame) -> void:
	_wanted_glow = PictureLight.mean_color(frame.image)


func _on_text_submitted(text: String) -> void:
	_line.clear()
	var receipt := stream.send_prompt(text)
	if await receipt.wait() == EversceneReceipt.State.REJECTED:
		_line.placeholder_text = receipt.reason


## Where the picture's corners are in the window's pixels: top left, top right, bottom right and
## bottom left.
func picture_corners() -> PackedVector2Array:
	var place := picture.get_screen_transform() * Rect2(Vector2.ZERO, picture.size)
	return [
		place.position,
		Vector2(place.end.x, place.position.y),
		place.end,
		Vector2(place.position.x, place.end.y),
	]
