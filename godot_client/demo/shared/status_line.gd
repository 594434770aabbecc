extends Label
## One line about the stream: what runs, how fast, how late, and what went wrong.

const REFRESH_MS := 1000

var stream: EversceneStream:
	set(value):
		stream = value
		stream.error.connect(func(_code: String, reason: String) -> void: _trouble = reason)
		stream.connected.connect(func() -> void: _trouble = "")
		stream.disconnected.connect(func(reason: String) -> void: _trouble = reason)

var _trouble := ""
var _since_ms := 0
var _before := 0


func _process(_delta: float) -> void:
	var now := Time.get_ticks_msec()
	if stream == null or now - _since_ms < REFRESH_MS:
		return
	var received: int = stream.frame_counts()["received"]
	if stream.is_live:
		text = stream.model
		if _before > 0:
			text += " · %.0f fps" % ((received - _before) * 1000.0 / (now - _since_ms))
		if stream.latency_ms >= 0.0:
			text += " · event to picture %.0f ms" % stream.latency_ms
		if stream.state != "live":
			text += " · " + stream.state
	else:
		text = "no world yet: run  everscene serve"
		if not _trouble.is_empty():
			text += "  (%s)" % _trouble
	_before = received
	_since_ms = now
