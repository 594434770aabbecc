extends "res://tests/test_case.gd"
## A server of another major version.

const NEEDS := ["endpoint"]


func test_the_servers_reason_is_told_once() -> void:
	var stream := EversceneStream.new()
	var errors: Array[Array] = []
	stream.endpoint = options["endpoint"]
	stream.error.connect(func(c: String, reason: String) -> void: errors.append([c, reason]))
	add_child(stream)
	check(await wait_until(func() -> bool: return not errors.is_empty()), "an error")
	await wait_seconds(1.0)
	check_equal(errors.size(), 1, "errors")
	check_equal(errors[0][0], "version", "code")
	check(errors[0][1].begins_with("this server speaks protocol 2.0"), errors[0][1])
