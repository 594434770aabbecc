extends Node
## What a test file extends: checks, and waiting.

var options := {}
var failures: Array[String] = []
var checks := 0


func check(is_true: bool, what: String) -> bool:
	checks += 1
	if not is_true:
		failures.append(what)
	return is_true


func check_equal(actual: Variant, expected: Variant, what: String) -> bool:
	var is_equal: bool = typeof(actual) == typeof(expected) and actual == expected
	return check(is_equal, "%s: got %s, expected %s" % [what, _short(actual), _short(expected)])


## Lets the engine run until [param condition] is true, [param seconds] at most.
func wait_until(condition: Callable, seconds := 10.0) -> bool:
	var end := Time.get_ticks_msec() + int(seconds * 1000.0)
	while Time.get_ticks_msec() < end:
		if condition.call():
			return true
		await get_tree().process_frame
	return condition.call()


func wait_seconds(seconds: float) -> void:
	await get_tree().create_timer(seconds).timeout


## JSON with integers as integers: GDScript's own JSON makes all numbers floats, which cannot hold
## 63 bits. Godot's text format for values contains JSON.
static func read_json(path: String) -> Variant:
	return str_to_var(FileAccess.get_file_as_string(path))


static func _short(value: Variant) -> String:
	return var_to_str(value).left(300)
