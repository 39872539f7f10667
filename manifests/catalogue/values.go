package catalogue

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

var (
	labelLine = regexp.MustCompile(`^\| ([a-z_, ]+) \| (.*) \| ([0-9]+)(;[^|]*)? \|$`)
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// Values are the values of labels that have a fixed list of them, by what the line of docs/metrics.md calls the label. A line
// whose number is not that of its values is an error.
func Values() (map[string][]string, error) {
	text, err := document()
	if err != nil {
		return nil, err
	}
	return parseValues(text)
}

func parseValues(text string) (map[string][]string, error) {
	out := map[string][]string{}
	for l := range strings.Lines(text) {
		f := labelLine.FindStringSubmatch(strings.TrimSpace(l))
		if f == nil {
			continue
		}
		var list []string
		for _, v := range quoted.FindAllStringSubmatch(f[2], -1) {
			list = append(list, v[1])
		}
		if len(list) == 0 {
			continue // described in words
		}
		if n, err := strconv.Atoi(f[3]); err != nil || n != len(list) {
			return nil, fmt.Errorf("parse the labels: %s has %d values, and says %s", f[1], len(list), f[3])
		}
		slices.Sort(list)
		out[f[1]] = list
	}
	return out, nil
}

// Exported are the values that a label of a metric has, sorted and each once.
func Exported(families []*dto.MetricFamily, metric, label string) []string {
	var out []string
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				if l.GetName() == label {
					out = append(out, l.GetValue())
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
