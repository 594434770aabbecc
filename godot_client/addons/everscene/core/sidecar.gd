extends RefCounted
## The sidecar as a child process: started when nobody answers, stopped with the game.

var failure := ""

var _pid := -1


## Starts [param command] with [param arguments]. False, and [member failure], when it cannot be.
func start(command: String, arguments: PackedStringArray) -> bool:
	if is_running():
		return true
	_pid = OS.create_process(command, arguments)
	failure = "" if _pid > 0 else "cannot start %s" % command
	return _pid > 0


func is_running() -> bool:
	return _pid > 0 and OS.is_process_running(_pid)


## True once for each process that was started and has ended by itself. A program that is not there
## shows only so: the system starts a child, and the child finds nothing to run.
func has_ended() -> bool:
	if _pid <= 0 or OS.is_process_running(_pid):
		return false
	_pid = -1
	return true


## Asks the process to end, so that it can remove its ring. Windows has no such question: there
## it is ended, and the next start of the sidecar tidies up.
func stop() -> void:
	if is_running():
		if OS.get_name() == "Windows" or OS.execute("kill", ["-TERM", str(_pid)]) != 0:
			OS.kill(_pid)
	_pid = -1
