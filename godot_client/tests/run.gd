extends SceneTree
## Runs the tests in the engine: godot --headless --path godot_client --script res://tests/run.gd
## -- FILE… [key=value…]. FILE is a name like test_msgpack; without any, all of them.
## The last line says "N passed, N failed"; the exit code is 0 when none failed.
##
## A test file extends test_case.gd; each of its methods test_… is one test. `options` holds the
## key=value pairs. A file that needs an option that is not given is left out, and named.

const TEST_FOLDER := "res://tests/"

var _passed := 0
var _failed := 0


func _initialize() -> void:
	_run.call_deferred()


func _run() -> void:
	var names: Array[String] = []
	var options := {}
	for argument in OS.get_cmdline_user_args():
		if argument.contains("="):
			options[argument.get_slice("=", 0)] = argument.substr(argument.find("=") + 1)
		else:
			names.append(argument)
	if names.is_empty():
		for file in DirAccess.get_files_at(TEST_FOLDER):
			if file.begins_with("test_") and file.ends_with(".gd") and file != "test_case.gd":
				names.append(file.get_basename())
	for file_name in names:
		await _run_file(file_name, options)
	print("%d passed, %d failed" % [_passed, _failed])
	quit(0 if _failed == 0 and _passed > 0 else 1)


func _run_file(file_name: String, options: Dictionary) -> void:
	var script: GDScript = load(TEST_FOLDER + file_name + ".gd")
	if script == null or not script.can_instantiate():
		_failed += 1
		print("FAIL  %s does not load" % file_name)
		return
	var missing: Array = script.get_script_constant_map().get("NEEDS", []).filter(
		func(key: String) -> bool: return not options.has(key)
	)
	if not missing.is_empty():
		print("left out  %s: needs %s=…" % [file_name, "=… ".join(missing)])
		return
	for method in script.get_script_method_list():
		if method["name"].begins_with("test_"):
			await _run_test(script, file_name, method["name"], options)


func _run_test(script: GDScript, file_name: String, method: String, options: Dictionary) -> void:
	var test: Node = script.new()
	test.options = options
	root.add_child(test)
	var began := Time.get_ticks_msec()
	await test.call(method)
	var took := Time.get_ticks_msec() - began
	var is_good: bool = test.failures.is_empty() and test.checks > 0
	if test.checks == 0:
		test.failures.append("it checked nothing")
	print("%s  %s.%s (%d ms)" % ["ok  " if is_good else "FAIL", file_name, method, took])
	for failure: String in test.failures:
		print("      " + failure)
	if is_good:
		_passed += 1
	else:
		_failed += 1
	test.queue_free()
	await process_frame
