// Package page is the web page of a community server for people: whether an address is listed, why and until when, how to have it removed, and what the
// server has. It needs no script and no other server. Everything is escaped by package html/template.
package page

import (
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

//go:embed files
var files embed.FS

// Style is the path of the style sheet.
const Style = "/style.css"

var pages = template.Must(template.New("").Funcs(template.FuncMap{"chart": chart, "percent": percent, "time": shown}).ParseFS(files, "files/*.html"))

// An Overview is the first page.
type Overview struct {
	Server     string
	You        netip.Addr // who asks
	Listed     bool       // whether that is
	Size       int        // of the list
	Days       []Day      // oldest first
	Networks   []Count    // with most listed addresses
	Categories []Count
}

// A Day is how many reports came on a day.
type Day struct {
	Day     time.Time
	Reports uint64
}

// A Count is how many listed addresses something has.
type Count struct {
	Name string
	N    int
}

// An Address is the page about an address.
type Address struct {
	Server       string
	Addr         netip.Addr
	Yours        bool // the client has it
	Listed       bool
	Contested    bool
	Categories   []string
	Score        int
	Since, Until time.Time
	Reporters    string // a range
}

// A Message is any other page.
type Message struct{ Server, Title, Text string }

// WriteOverview answers with the first page.
func WriteOverview(w http.ResponseWriter, o Overview) { write(w, http.StatusOK, "overview.html", o) }

// WriteAddress answers with the page about an address.
func WriteAddress(w http.ResponseWriter, a Address) { write(w, http.StatusOK, "address.html", a) }

// WriteMessage answers with a title and a sentence.
func WriteMessage(w http.ResponseWriter, status int, m Message) { write(w, status, "message.html", m) }

// WriteStyle answers with the style sheet.
func WriteStyle(w http.ResponseWriter) {
	text, err := files.ReadFile("files/style.css")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	Headers(w)
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(text)
}

// Document is the OpenAPI document of the routes for programs.
func Document() ([]byte, error) { return files.ReadFile("files/openapi.json") }

// WriteDocument answers with it.
func WriteDocument(w http.ResponseWriter) {
	text, err := Document()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(text)
}

// Headers sets what a browser must not do with a page: run or load anything from elsewhere, or show it within another one.
func Headers(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

func write(w http.ResponseWriter, status int, name string, data any) {
	var text strings.Builder
	if err := pages.ExecuteTemplate(&text, name, data); err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	Headers(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text.String()))
}

func shown(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// percent returns a part of the largest of counts.
func percent(n int, all []Count) int {
	most := 1
	for _, c := range all {
		most = max(most, c.N)
	}
	return 100 * n / most
}

// A bar is one of a chart.
type bar struct {
	X, Y, Height int
	Text         string
}

// chart returns the bars of some days, in a space of 100 in height and 10 in width for each.
func chart(days []Day) (bars []bar) {
	most := uint64(1)
	for _, d := range days {
		most = max(most, d.Reports)
	}
	for i, d := range days {
		h := int(d.Reports * 100 / most)
		if d.Reports > 0 {
			h = max(h, 1)
		}
		bars = append(bars, bar{10 * i, 100 - h, h, fmt.Sprintf("%s: %d reports", d.Day.Format(time.DateOnly), d.Reports)})
	}
	return bars
}
