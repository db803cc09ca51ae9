// Package tell prints a story of what is shown and proven as it happens.
package tell

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Teller prints the story: in colour on a terminal, plain elsewhere.
type Teller struct {
	w      io.Writer
	colour bool
	began  time.Time
	steps  int
}

// New begins a story.
func New(w io.Writer) *Teller {
	t := &Teller{w: w, began: time.Now()}
	file, ok := w.(*os.File)
	if !ok {
		return t
	}
	info, err := file.Stat()
	t.colour = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return t
}

// The colours, as parameters of ECMA-48's SGR.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
	cyan  = "36"
)

func (t *Teller) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *Teller) printf(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

// Title is what the story is about, before its first chapter.
func (t *Teller) Title(headline string, text ...string) {
	t.printf("%s", t.paint(bold, headline))
	for _, line := range text {
		t.printf("%s", line)
	}
}

// Step begins a chapter.
func (t *Teller) Step(format string, args ...any) {
	t.steps++
	t.printf("\n%s %s", t.paint(dim, fmt.Sprintf("[%6.1f s]", time.Since(t.began).Seconds())),
		t.paint(bold, fmt.Sprintf("%d. ", t.steps)+fmt.Sprintf(format, args...)))
}

// Say is a remark.
func (t *Teller) Say(format string, args ...any) { t.printf("  %s", fmt.Sprintf(format, args...)) }

// Proved is a promise that has just been seen to hold.
func (t *Teller) Proved(format string, args ...any) {
	t.printf("  %s %s", t.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// Call reports a call of the driver and how long it took.
func (t *Teller) Call(name, what string, took time.Duration) {
	t.printf("  %s %-46s %s", t.paint(cyan, fmt.Sprintf("%-25s", name)), what, t.paint(dim, fmt.Sprintf("%6.2f s", took.Seconds())))
}

// Output shows what a command printed on a machine.
func (t *Teller) Output(machine, command string, out []byte) {
	t.printf("  %s", t.paint(cyan, machine+"$ "+command))
	for line := range strings.Lines(strings.TrimRight(string(out), "\n")) {
		t.printf("    %s", strings.TrimRight(line, "\n"))
	}
}

// Write makes the teller a place for progress messages.
func (t *Teller) Write(p []byte) (int, error) {
	for lines := bufio.NewScanner(bytes.NewReader(p)); lines.Scan(); {
		t.Say("%s", t.paint(dim, lines.Text()))
	}
	return len(p), nil
}

// Ended is the last line: how long all of it took.
func (t *Teller) Ended() {
	t.printf("\n%s", t.paint(bold, fmt.Sprintf("All of it took %.0f s.", time.Since(t.began).Seconds())))
}
