// Package exposition writes metrics in Prometheus' text format, version 0.0.4. A sidecar has some twenty families that it reads from
// elsewhere when it is asked; Prometheus' own client, with the protocol buffers behind it, would be a sixth of the program and of the
// memory that it has when idle. What is written here is held to Prometheus' parser by the tests.
package exposition

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// ContentType is what a server says of the text.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Type is what a family's values mean.
type Type string

// The types that are used.
const (
	Counter Type = "counter"
	Gauge   Type = "gauge"
)

// Family is one metric's name, its meaning in a sentence, and the names of its labels.
type Family struct {
	Name, Help string
	Type       Type
	Labels     []string
}

// Text collects samples; its zero value is empty. One goroutine uses it.
type Text struct {
	order   []*Family
	samples map[*Family][]sample
}

type sample struct {
	value  float64
	labels []string
}

// Add takes a value of f, whose labels have these values, in the order of f.Labels: as many as there are names, or Add panics, as only
// a mistake in the program can make it so. Families are told apart by their address.
func (t *Text) Add(f *Family, value float64, labels ...string) {
	if len(labels) != len(f.Labels) {
		panic(fmt.Sprintf("exposition: %s has %d labels, got %d values", f.Name, len(f.Labels), len(labels)))
	}
	if _, known := t.samples[f]; !known {
		if t.samples == nil {
			t.samples = map[*Family][]sample{}
		}
		t.order = append(t.order, f)
	}
	t.samples[f] = append(t.samples[f], sample{value, labels})
}

// Write writes families in the order in which they were first added, each with all of its samples. The error is the writer's.
func (t *Text) Write(to io.Writer) error {
	w := bufio.NewWriter(to) // keeps its first error for Flush
	for _, f := range t.order {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.Name, escapeHelp.Replace(f.Help), f.Name, f.Type)
		for _, s := range t.samples[f] {
			s.write(w, f)
		}
	}
	return w.Flush() //nolint:wrapcheck // there is nothing to add
}

func (s *sample) write(w *bufio.Writer, f *Family) {
	_, _ = w.WriteString(f.Name)
	between := byte('{')
	for i, name := range f.Labels {
		_ = w.WriteByte(between)
		_, _ = w.WriteString(name)
		_, _ = w.WriteString(`="`)
		_, _ = escapeValue.WriteString(w, strings.ToValidUTF8(s.labels[i], "\uFFFD"))
		_ = w.WriteByte('"')
		between = ','
	}
	if len(f.Labels) > 0 {
		_ = w.WriteByte('}')
	}
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(number(s.value))
	_ = w.WriteByte('\n')
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// number spells a value as Prometheus reads it.
func number(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return strings.TrimSuffix(strconv.FormatFloat(v, 'g', -1, 64), "inity")
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
