package page

import (
	"fmt"
	"html/template"
	"strings"

	"mef/internal/control"
)

// A plot is a curve of the last minute.
type plot struct {
	Title     string
	Now, Most uint64 // a second
	SVG       template.HTML
}

// minute returns the plots of the last minute.
func minute(seconds []control.Second) []plot {
	curve := func(title string, class int, of func(control.Second) uint64) plot {
		p := plot{Title: title}
		values := make([]uint64, len(seconds))
		for i, s := range seconds {
			values[i] = of(s)
			p.Most = max(p.Most, values[i])
		}
		if n := len(values); n > 0 {
			p.Now = values[n-1]
		}
		p.SVG = curveOf(values, p.Most, class)
		return p
	}
	return []plot{
		curve("Attempts a second", 0, func(s control.Second) uint64 { return s.Attempts }),
		curve("Packets dropped a second", 1, func(s control.Second) uint64 { return s.Drops }),
	}
}

// The size of a plot, in its own units: it is scaled to the width of the page.
const (
	plotWidth  = 400
	plotHeight = 80
)

// curveOf draws values, of which most is the largest. Nothing in it is text of others.
func curveOf(values []uint64, most uint64, class int) template.HTML {
	return picture(polyline(values, most, class))
}

// polyline returns a curve in the colour of a class.
func polyline(values []uint64, most uint64, class int) string {
	var points strings.Builder
	for i, v := range values {
		x := float64(i) * plotWidth / float64(max(1, len(values)-1))
		y := plotHeight - 2 - float64(v)*(plotHeight-6)/float64(max(1, most))
		fmt.Fprintf(&points, "%.1f,%.1f ", x, y)
	}
	return fmt.Sprintf(`<polyline class="s%d" points="%s"/>`, class, points.String())
}

// picture returns a plot with its curves.
func picture(curves string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %d" role="img" aria-hidden="true"><path class="grid" d="M0 %dH%d"/>%s</svg>`,
		plotWidth, plotHeight, plotHeight-1, plotWidth, curves))
}
