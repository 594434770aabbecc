@tool
extends VBoxContainer
## The editor's dock: the live picture, its latency, and a button for every event of the scene.
##
## It is a client of its own, so the game need not run. Textures of the edited scene that bear the
## name of its first stream show the picture too.

const REFRESH_S := 0.5

var stream: EversceneStream

var _picture := TextureRect.new()
var _status := Label.new()
var _endpoint := LineEdit.new()
var _connect_button := Button.new()
var _prompt := LineEdit.new()
var _groups := VBoxContainer.new()
var _message := Label.new()
var _texture := EversceneTexture.new()
var _since_refresh := 0.0
var _frames_before := 0


func _init() -> void:
	stream = EversceneStream.new()
	stream.auto_connect = false
	stream.client_name = "godot editor"
	_texture.stream = stream.stream_name
	_build()


func _ready() -> void:
	# Each time: the dock comes into the tree anew when it is moved.
	stream.tree_entered.connect(stream.remove_from_group.bind(EversceneStream.GROUP))
	add_child(stream)
	stream.connected.connect(_show_state)
	stream.disconnected.connect(func(_reason: String) -> void: _show_state())
	stream.state_changed.connect(func(_state: String, _reason: String) -> void: _show_state())
	stream.scene_changed.connect(show_scene)
	stream.prompt_changed.connect(func(prompt: String) -> void: _prompt.placeholder_text = prompt)
	stream.error.connect(func(_code: String, reason: String) -> void: _message.text = reason)
	_show_state()


func _process(delta: float) -> void:
	_since_refresh += delta
	if _since_refresh >= REFRESH_S:
		_show_numbers()


## Takes endpoint, token and name from the first stream of the scene that is edited now.
func look_at_scene(root: Node) -> void:
	if root == null:
		return
	var streams := root.find_children("*", "EversceneStream", true, false)
	if root is EversceneStream:
		streams.push_front(root)
	if streams.is_empty():
		return
	_endpoint.text = streams[0].endpoint
	stream.token = streams[0].token
	stream.stream_name = streams[0].stream_name
	_texture.stream = stream.stream_name


## Makes a button for each event of [param scene], in rows by group.
func show_scene(scene: Dictionary) -> void:
	for child in _groups.get_children():
		child.queue_free()
	var rows := {}
	for event: Dictionary in scene["events"]:
		var group: String = event["group"]
		if not rows.has(group):
			if not rows.is_empty():
				_groups.add_child(HSeparator.new())
			rows[group] = HFlowContainer.new()
			rows[group].tooltip_text = group.capitalize()
			_groups.add_child(rows[group])
		var button := Button.new()
		button.text = event["label"]
		button.tooltip_text = "Send the event %s" % event["name"]
		button.pressed.connect(_send.bind(event["name"]))
		rows[group].add_child(button)


func _build() -> void:
	custom_minimum_size = Vector2(240, 320)
	var frame := AspectRatioContainer.new()
	frame.ratio = 16.0 / 9.0
	frame.custom_minimum_size.y = 140
	_picture.texture = _texture
	_picture.expand_mode = TextureRect.EXPAND_IGNORE_SIZE
	_picture.texture_filter = CanvasItem.TEXTURE_FILTER_LINEAR
	frame.add_child(_picture)
	add_child(frame)
	var row := HBoxContainer.new()
	_endpoint.text = stream.endpoint
	_endpoint.size_flags_horizontal = SIZE_EXPAND_FILL
	_endpoint.tooltip_text = "Address of the sidecar"
	_endpoint.text_submitted.connect(func(_text: String) -> void: _reconnect())
	_connect_button.pressed.connect(_toggle)
	row.add_child(_endpoint)
	row.add_child(_connect_button)
	add_child(row)
	_status.text_overrun_behavior = TextServer.OVERRUN_TRIM_ELLIPSIS
	_status.mouse_filter = MOUSE_FILTER_PASS
	add_child(_status)
	_prompt.text_submitted.connect(_send_prompt)
	_prompt.tooltip_text = "Type a prompt and press Enter"
	add_child(_prompt)
	var scroll := ScrollContainer.new()
	scroll.size_flags_vertical = SIZE_EXPAND_FILL
	scroll.horizontal_scroll_mode = ScrollContainer.SCROLL_MODE_DISABLED
	_groups.size_flags_horizontal = SIZE_EXPAND_FILL
	scroll.add_child(_groups)
	add_child(scroll)
	_message.autowrap_mode = TextServer.AUTOWRAP_WORD_SMART
	add_child(_message)


func _toggle() -> void:
	if stream.is_live:
		stream.disconnect_from_server()
	else:
		_reconnect()
	_show_state()


func _reconnect() -> void:
	_message.text = ""
	stream.endpoint = _endpoint.text.strip_edges()
	stream.connect_to_server()


func _send(event: String) -> void:
	_follow(event, stream.send_event(event))


func _send_prompt(text: String) -> void:
	_prompt.clear()
	_follow("prompt", stream.send_prompt(text))


func _follow(what: String, receipt: EversceneReceipt) -> void:
	_message.text = "%s: sent" % what
	match await receipt.wait():
		EversceneReceipt.State.APPLIED:
			_message.text = (
				"%s: shows from frame %d, after %.0f ms" % [what, receipt.frame, receipt.latency_ms]
			)
		EversceneReceipt.State.SUPERSEDED:
			_message.text = "%s: superseded by a later one" % what
		EversceneReceipt.State.REJECTED:
			_message.text = "%s: %s" % [what, receipt.reason]


func _show_state() -> void:
	_connect_button.text = "Disconnect" if stream.is_live else "Connect"
	_prompt.editable = stream.is_live
	_status.text = "%s · %s" % [stream.model, stream.state] if stream.is_live else "not connected"
	_status.tooltip_text = "frames by way of: %s" % stream.frames_source()


func _show_numbers() -> void:
	var received: int = stream.frame_counts()["received"]
	if stream.is_live:
		var fps := maxf(0.0, (received - _frames_before) / _since_refresh)
		_status.text = "%s · %s · %.0f fps" % [stream.model, stream.state, fps]
		if stream.latency_ms >= 0.0:
			_status.text += " · %.0f ms" % stream.latency_ms
		_status.tooltip_text = "frames by way of: %s" % stream.frames_source()
		if stream.frame != null:
			_status.tooltip_text += "\nframe %d" % stream.frame.number
		if stream.latency_ms >= 0.0:
			_status.tooltip_text += "\nevent to picture: %.0f ms" % stream.latency_ms
	_frames_before = received
	_since_refresh = 0.0
