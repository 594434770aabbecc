@tool
@icon("res://addons/everscene/icons/texture.svg")
class_name EversceneTexture
extends ImageTexture
## The generated world as a texture: put it wherever Godot takes a [Texture2D], as in a
## [TextureRect], a [Sprite2D], the albedo of a material, a shader's uniform or a sky.
##
## It fills itself from the [EversceneStream] whose [member EversceneStream.stream_name] equals
## [member stream], wherever in the scene that node is. Nothing has to be wired. The last frame
## stays when the stream ends. In a shader, mark the uniform source_color.
## [br][br]To show the world in many places, save this resource to a file and use that one file:
## each resource is an upload of its own.

static var _ids: Array[int] = []
static var _mutex := Mutex.new()

## Name of the [EversceneStream] that fills this texture.
@export var stream: StringName = &"main"
## Colour until the first frame comes.
@export_color_no_alpha var waiting_color := Color(0.04, 0.05, 0.07):
	set(value):
		waiting_color = value
		if not has_frame:
			_fill_waiting()

## True once a frame has come.
var has_frame := false

var _size := Vector2i.ZERO


func _init() -> void:
	_fill_waiting()
	_mutex.lock()
	_ids.append(get_instance_id())
	_mutex.unlock()


func _validate_property(property: Dictionary) -> void:
	if property["name"] == "image":
		property["usage"] &= ~PROPERTY_USAGE_STORAGE


## Every texture that the stream of this name fills.
static func of(stream_name: StringName) -> Array[EversceneTexture]:
	var textures: Array[EversceneTexture] = []
	_mutex.lock()
	for i in range(_ids.size() - 1, -1, -1):
		if not is_instance_id_valid(_ids[i]):
			_ids.remove_at(i)
			continue
		var texture := instance_from_id(_ids[i]) as EversceneTexture
		if texture != null and texture.stream == stream_name:
			textures.push_front(texture)
	_mutex.unlock()
	return textures


## Shows [param image] (RGBA8). [EversceneStream] calls this, on the main thread.
func show_image(image: Image) -> void:
	has_frame = true
	if image.get_size() == _size:
		update(image)
	else:
		_size = image.get_size()
		set_image(image)


## Back to the waiting colour.
func reset() -> void:
	has_frame = false
	_fill_waiting()


func _fill_waiting() -> void:
	var image := Image.create(16, 9, false, Image.FORMAT_RGBA8)
	image.fill(waiting_color)
	_size = Vector2i.ZERO
	set_image(image)
