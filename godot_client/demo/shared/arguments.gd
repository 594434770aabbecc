extends RefCounted
## What was said on the command line after "--": --endpoint=tcp://HOST:PORT, --token=…


static func apply(stream: EversceneStream) -> void:
	for argument in OS.get_cmdline_user_args():
		if argument.begins_with("--endpoint="):
			stream.endpoint = argument.trim_prefix("--endpoint=")
		elif argument.begins_with("--token="):
			stream.token = argument.trim_prefix("--token=")
