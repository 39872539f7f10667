// Package cli is kubectl-tenantwire: it shows tunnels, adds, lists and removes their outside peers, and says what the webhook would make of
// a pod, with the rights of whoever runs it.
//
// Showing goes: objects (and, where the user may forward ports, what sidecars say on their pods' loopback) -> report, pure -> tables or
// JSON.
//
// Adding one goes: flags -> addition (typed, nothing asked of the cluster yet) -> what the tunnel is and where its gateway is reached ->
// the preshared key's entry and the TunnelPeer are written -> the operator decides -> the far end's config goes out. Whatever fails
// after something was written takes that back, so that a name is either a peer with a config in somebody's hands or free. The private
// key is made here and goes into the config alone: no object, message or error has it.
//
// What a command is asked for goes to its output, everything it says besides to its error output.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// Exit codes of Run.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2 // the command line is wrong; nothing was done. With status it is ExitFailed.
	// What the answer is, of commands that worked.
	ExitUnhealthy = 2 // status: something is not as it should be
	ExitDenied    = 3 // inject: a pod would be refused
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Program is what the program was called as, of which the last element counts; empty: kubectl-tenantwire.
	Program string
}

// What the program may be called as, and is called in its help: a plugin by the words that kubectl takes, anything else by its own name.
const (
	plugin    = "kubectl-tenantwire"
	words     = "kubectl tenantwire"
	completer = "kubectl_complete-tenantwire" // kubectl's, for the plugin's arguments
)

func (s *Streams) names() (name, display string) {
	name = strings.TrimSuffix(filepath.Base(cmp.Or(s.Program, plugin)), ".exe")
	if name == plugin || name == completer {
		return plugin, words
	}
	return name, name
}

// Run does what the words of a command line, without the program's name, say, and returns the exit code. When ctx ends, it takes back
// what is half done before it returns.
func Run(ctx context.Context, version string, args []string, s Streams) int {
	root := command(version, s)
	if strings.TrimSuffix(filepath.Base(s.Program), ".exe") == completer {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	begun := false // until then all that can be wrong is the command line
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if a := (answer{}); errors.As(err, &a) {
		return a.code
	}
	fmt.Fprintln(s.Err, "error:", err)
	if !begun || errors.As(err, new(usageError)) {
		fmt.Fprintf(s.Err, "See '%s --help'.\n", c.CommandPath())
		if _, ok := c.Annotations[usageFails]; !ok {
			return ExitUsage
		}
	}
	return ExitFailed
}

// usageFails marks a command whose wrong command lines end with ExitFailed, as ExitUsage means something else there.
const usageFails = "usage-fails"

// answer ends the program with a code that is an answer, after all was said.
type answer struct{ code int }

func (a answer) Error() string { return fmt.Sprintf("the answer is %d", a.code) }

// usageError is of the command line, found by the command itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// commands have in common where the cluster is, and what they read and write.
type commands struct {
	Streams
	version string
	config  *genericclioptions.ConfigFlags
}

func command(version string, s Streams) *cobra.Command {
	cs := &commands{Streams: s, version: version, config: genericclioptions.NewConfigFlags(true)}
	cs.config.CacheDir = nil // nothing is discovered
	name, display := s.names()
	root := group(name, "Work with TenantWire's tunnels", `Work with TenantWire's tunnels: see how they are, add laptops, routers and sites to them, and take them out again.

It does what you may do yourself with kubectl in the namespace, and asks nothing else of the cluster.`)
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: display}
	root.SilenceUsage, root.SilenceErrors = true, true
	cs.config.AddFlags(root.PersistentFlags())
	peer := group("peer", "Add, list and remove outside peers", `Add, list and remove the outside peers of tunnels: WireGuard devices and sites that reach a tunnel through its gateway.`)
	peer.AddCommand(cs.add(), cs.list(), cs.remove())
	root.AddCommand(cs.status(), cs.wg(), cs.doctor(), cs.capture(), cs.bench(), cs.inject(), peer, &cobra.Command{
		Use: "version", Short: "Print this program's version", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, name, version)
			return err
		},
	})
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.InitDefaultCompletionCmd() // which keeps the output that there is
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = cobra.ArbitraryArgs, below
		}
	}
	rename(root, display)
	return root
}

// rename has the help of all commands call the program as it was called.
func rename(c *cobra.Command, display string) {
	c.Long, c.Example = strings.ReplaceAll(c.Long, words, display), strings.ReplaceAll(c.Example, words, display)
	for _, below := range c.Commands() {
		rename(below, display)
	}
}

// group is a command that only has others below it.
func group(use, short, long string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs, RunE: below, SuggestionsMinimumDistance: 2}
}

// below says what there is below a group or, had something else been asked for, what comes near.
func below(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	var near string
	if s := c.SuggestionsFor(args[0]); len(s) > 0 {
		near = "; did you mean " + strings.Join(s, " or ") + "?"
	}
	return usagef("there is no command %q below %q%s", args[0], c.CommandPath(), near)
}

// exactly wants one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// say tells the user something that is not the command's output.
func (cs *commands) say(format string, args ...any) { fmt.Fprintf(cs.Err, format+"\n", args...) }
