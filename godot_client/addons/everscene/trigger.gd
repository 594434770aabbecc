@tool
@icon("res://addons/everscene/icons/trigger.svg")
class_name EversceneTrigger
extends Node
## Sends an event when somebody walks into the [Area3D] or [Area2D] that is its parent, or presses
## the [BaseButton] that is its parent.

## The event was sent.
signal fired(receipt: EversceneReceipt)

enum When {
	AS_THE_SCENE_SAYS,
	NOW,  ## Do not wait for the chunk in flight.
	CHUNK,  ## From the next chunk on.
}

## Event to send on entering (or pressing). Empty: none.
@export var event: StringName = &"":
	set(value):
		event = value
		update_configuration_warnings()
## Its params: bools, ints, floats or texts by name. Absent ones take the scene's defaults.
@export var params := {}
## Event to send when the last body has left. Empty: none.
@export var exit_event: StringName = &"":
	set(value):
		exit_event = value
		update_configuration_warnings()
## Its params.
@export var exit_params := {}
## When the events take hold.
@export var when := When.AS_THE_SCENE_SAYS
## Only bodies of this group count. Empty: any body.
@export var only_group: StringName = &""
## Seconds after an event in which no other is sent.
@export_range(0.0, 60.0, 0.1, "or_greater", "suffix:s") var cooldown_s := 0.0
## Send the first event only.
@export var once := false
## Name of the [EversceneStream] to send to. Empty: the first one in the tree.
@export var stream: StringName = &""

var _inside := 0
var _sent := 0
var _quiet_until_ms := 0


func _ready() -> void:
	if Engine.is_editor_hint():
		return
	var parent := get_parent()
	if parent is Area2D or parent is Area3D:
		parent.body_entered.connect(_on_body_entered)
		parent.body_exited.connect(_on_body_exited)
	elif parent is BaseButton:
		parent.pressed.connect(fire)


func _get_configuration_warnings() -> PackedStringArray:
	var warnings := PackedStringArray()
	var parent := get_parent()
	if not (parent is Area2D or parent is Area3D or parent is BaseButton):
		warnings.append("Make this a child of an Area2D, an Area3D or a button.")
	if event.is_empty() and exit_event.is_empty():
		warnings.append("No event is named: nothing will be sent.")
	return warnings


func _validate_property(property: Dictionary) -> void:
	if property["name"] in ["event", "exit_event"] and not EversceneStream.known_events.is_empty():
		property["hint"] = PROPERTY_HINT_ENUM_SUGGESTION
		property["hint_string"] = ",".join(EversceneStream.known_events)


## Sends [member event], as if somebody had walked in. Returns null when it was not sent.
func fire() -> EversceneReceipt:
	return _send(event, params)


func _send(event_name: StringName, event_params: Dictionary) -> EversceneReceipt:
	var now := Time.get_ticks_msec()
	if event_name.is_empty() or (once and _sent > 0) or now < _quiet_until_ms:
		return null
	var target := EversceneStream.find(self, stream)
	if target == null:
		push_warning("%s: there is no EversceneStream to send to" % get_path())
		return null
	_sent += 1
	_quiet_until_ms = now + int(cooldown_s * 1000.0)
	var receipt := target.send_event(event_name, event_params, ["", "now", "chunk"][when])
	fired.emit(receipt)
	return receipt


func _on_body_entered(body: Node) -> void:
	if not only_group.is_empty() and not body.is_in_group(only_group):
		return
	_inside += 1
	if _inside == 1:
		_send(event, params)


func _on_body_exited(body: Node) -> void:
	if not only_group.is_empty() and not body.is_in_group(only_group):
		return
	_inside = maxi(0, _inside - 1)
	if _inside == 0:
		_send(exit_event, exit_params)
