extends RefCounted
## The colour of a picture as a whole: what it would cast on the room around it.

const COLUMNS := 12
const ROWS := 7


## Mean of a grid of pixels of [param image], between the rows [param top] and [param bottom]
## (0 to 1).
static func mean_color(image: Image, top := 0.0, bottom := 1.0) -> Color:
	var size := image.get_size()
	var sum := Color(0, 0, 0, 0)
	for row in ROWS:
		var y := int(size.y * lerpf(top, bottom, (row + 0.5) / ROWS))
		for column in COLUMNS:
			sum += image.get_pixel(int(size.x * (column + 0.5) / COLUMNS), y)
	return sum / (COLUMNS * ROWS)
