extends RefCounted
## What the server's messages have to look like, so that a bad one stops at the door.
##
## Fields marked with "?" may be absent or nil. Unknown fields and unknown kinds are ignored:
## a later minor version of the protocol only adds (docs/protocol.md §9).

const PROTOCOL := [1, 0]
const LANGUAGE := "gdscript"
const MAX_MESSAGE_BYTES := 65536

## By `type` (control) or `kind` (notice); "frame" is the second part of the frame topics.
const _FIELDS := {
	"welcome":
	{
		"protocol": "list",
		"epoch": "int",
		"server": "text",
		"model": "text",
		"width": "int",
		"height": "int",
		"fps": "number",
		"frames_per_chunk": "int",
		"ring": "map?",
		"frames_endpoint": "text",
		"viewer": "text?",
		"scene": "map",
		"prompt": "text",
		"frame": "int",
		"state": "text",
	},
	"refused": {"code": "text", "reason": "text"},
	"receipt":
	{
		"id": "int",
		"state": "text",
		"order": "int?",
		"frame": "int?",
		"chunk": "int?",
		"latency_ms": "number?",
		"prompt": "text?",
		"by": "int?",
		"code": "text?",
		"reason": "text?",
	},
	"error": {"id": "int?", "code": "text", "reason": "text"},
	"pong": {"server_ns": "int"},
	"reply": {"id": "int", "ok": "bool"},
	"stats": {"state": "text", "fps": "number", "latency_ms": "map"},
	"frame":
	{
		"frame": "int",
		"epoch": "int",
		"ring_id": "int",
		"width": "int",
		"height": "int",
		"stride": "int",
		"pts_ns": "int",
		"chunk": "int",
		"index": "int",
		"order": "int",
		"prompt": "text",
		"flags": "int",
		"stamps_ns": "map",
	},
	"prompt": {"text": "text", "frame": "int"},
	"input":
	{
		"order": "int",
		"client": "text",
		"event": "text?",
		"params": "map?",
		"prompt": "text?",
		"slots": "map?",
	},
	"state": {"state": "text", "reason": "text?"},
	"ring_changed": {"ring": "map?"},
	"scene": {"scene": "map"},
}
const _TYPES := {
	"int": [TYPE_INT],
	"number": [TYPE_INT, TYPE_FLOAT],
	"text": [TYPE_STRING],
	"bool": [TYPE_BOOL],
	"list": [TYPE_ARRAY],
	"map": [TYPE_DICTIONARY],
}


## What is wrong with [param message] as a [param kind], or "" if nothing is. Fields that are nil
## are taken out, so that [code]message.get(field, default)[/code] does what it says.
static func problem(kind: String, message: Dictionary) -> String:
	for key: Variant in message.keys():
		if message[key] == null:
			message.erase(key)
	var fields: Dictionary = _FIELDS.get(kind, {})
	for field: String in fields:
		var type: String = fields[field]
		if not message.has(field):
			if not type.ends_with("?"):
				return "%s without %s" % [kind, field]
		elif not typeof(message[field]) in _TYPES[type.trim_suffix("?")]:
			return "%s with a %s that is no %s" % [kind, field, type.trim_suffix("?")]
	return ""


static func is_known(kind: String) -> bool:
	return _FIELDS.has(kind)


## [param scene] with every field of every event, param and slot there and of its type, so that a
## user interface can be built from it without looking twice. Entries without sense are left out.
static func tidy_scene(scene: Dictionary) -> Dictionary:
	var events := []
	for event: Variant in _list(scene, "events"):
		if not event is Dictionary or not event.get("name") is String:
			continue
		var params := []
		for param: Variant in _list(event, "params"):
			if param is Dictionary and param.get("name") is String:
				params.append(_tidy_param(param))
		(
			events
			. append(
				{
					"name": event["name"],
					"label": _text(event, "label", event["name"].capitalize()),
					"group": _text(event, "group", ""),
					"when": _text(event, "when", "now"),
					"for_s": event.get("for_s"),
					"params": params,
				}
			)
		)
	var slots := []
	for slot: Variant in _list(scene, "slots"):
		if slot is Dictionary and slot.get("name") is String:
			slots.append(_tidy_slot(slot))
	return {"name": _text(scene, "name", ""), "events": events, "slots": slots}


static func _tidy_slot(slot: Dictionary) -> Dictionary:
	var default := _text(slot, "default", "")
	return {"name": slot["name"], "default": default, "choices": _list(slot, "choices")}


static func _tidy_param(param: Dictionary) -> Dictionary:
	var tidy := param.duplicate()
	tidy["label"] = _text(param, "label", param["name"].capitalize())
	tidy["type"] = _text(param, "type", "text")
	tidy["choices"] = _list(param, "choices")
	return tidy


static func _text(map: Dictionary, key: String, default: String) -> String:
	return map[key] if map.get(key) is String else default


static func _list(map: Dictionary, key: String) -> Array:
	return map[key] if map.get(key) is Array else []
