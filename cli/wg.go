package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// The forms of a device. The empty one is what wg show prints.
const (
	wgShow = ""
	wgDump = "dump"
)

func (cs *commands) wg() *cobra.Command {
	var form string
	c := &cobra.Command{
		Use:   "wg POD",
		Short: "Show a pod's WireGuard peers, as wg show does",
		Long: `Shows the WireGuard interface of a member or a gateway as it is now: its peers, where they are, when the last handshakes were,
and how much was carried. It is printed as wg show prints an interface, whatever the pod's datapath; no key but public ones is ever shown.

It asks the pod's sidecar through a forwarded port, which takes the right to create pods/portforward in the namespace. How long ago a
handshake was is told by the pod's clock.`,
		Example: `  kubectl tenantwire wg web-5d9c7b6f4-x2x7k
  kubectl tenantwire -n acme wg tenantwire-gateway-net-7f8d4 -o dump`,
		Args: exactly("POD"),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains([]string{wgShow, wgDump, listJSON, listYAML}, form) {
				return usagef("--output: %q is not dump, json or yaml", form)
			}
			return cs.showPod(c.Context(), args[0], form)
		},
	}
	c.Flags().StringVarP(&form, "output", "o", wgShow, "dump: as wg show INTERFACE dump prints it, keys hidden; json or yaml: what the sidecar says")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return cs.memberNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	cs.complete(c, "output", func(context.Context) []string { return []string{wgDump, listJSON, listYAML} })
	return c
}

func (cs *commands) showPod(ctx context.Context, pod, form string) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	p, err := n.openPod(ctx, pod)
	if err != nil {
		return err
	}
	defer p.close()
	d, err := p.device(ctx)
	if err != nil {
		return err
	}
	if !d.Up {
		cs.say("note: the data path of pod %s is not up: %s", pod, oneLine(d.Why))
	}
	return printDevice(cs.Out, form, d)
}

func printDevice(w io.Writer, form string, d *wire.Device) error {
	switch form {
	case wgShow:
		return showDevice(w, d)
	case wgDump:
		return dumpDevice(w, d)
	}
	return printValue(w, form, d)
}

// printValue prints v as JSON or YAML.
func printValue(w io.Writer, form string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if form == listYAML {
		b, err = yaml.Marshal(v)
	}
	if err != nil {
		return fmt.Errorf("print as %s: %w", form, err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(b), "\n"))
	return err
}

// oneLine makes what others wrote fit for a terminal: a line without control characters.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }), " ")
}
