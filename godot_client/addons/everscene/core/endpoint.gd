extends RefCounted
## Where a socket is: tcp://HOST:PORT. An IPv6 address stands in brackets: tcp://[::1]:7464.

var host := ""
var port := 0


## [param text] may lack tcp://, and its port, which is [param default_port] then.
func _init(text: String, default_port := 0) -> void:
	var address := text.strip_edges().trim_prefix("tcp://")
	var colon := address.rfind(":")
	if colon < 0 or colon < address.find("]"):
		host = address
		port = default_port
	else:
		host = address.left(colon)
		port = address.substr(colon + 1).to_int()
	host = host.trim_prefix("[").trim_suffix("]")


func _to_string() -> String:
	return ("[%s]:%d" if host.contains(":") else "%s:%d") % [host, port]
