package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// teller prints the story: in colour on a terminal, plain elsewhere.
type teller struct {
	w      io.Writer
	colour bool
	began  time.Time
	steps  int
}

func newTeller(w *os.File) *teller {
	t := &teller{w: w, began: time.Now()}
	info, err := w.Stat()
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

func (t *teller) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *teller) printf(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

func (t *teller) title(headline string, text ...string) {
	t.printf("%s", t.paint(bold, headline))
	for _, line := range text {
		t.printf("%s", line)
	}
}

// step begins a chapter.
func (t *teller) step(format string, args ...any) {
	t.steps++
	t.printf("\n%s %s", t.paint(dim, fmt.Sprintf("[%6.1f s]", time.Since(t.began).Seconds())),
		t.paint(bold, fmt.Sprintf("%d. ", t.steps)+fmt.Sprintf(format, args...)))
}

// say is a remark.
func (t *teller) say(format string, args ...any) { t.printf("  %s", fmt.Sprintf(format, args...)) }

// proved is a promise that has just been seen to hold.
func (t *teller) proved(format string, args ...any) {
	t.printf("  %s %s", t.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// call reports a call of the driver and how long it took.
func (t *teller) call(name, what string, took time.Duration) {
	t.printf("  %s %-46s %s", t.paint(cyan, fmt.Sprintf("%-25s", name)), what, t.paint(dim, fmt.Sprintf("%6.2f s", took.Seconds())))
}

// output shows what a command printed on a machine.
func (t *teller) output(machine, command string, out []byte) {
	t.printf("  %s", t.paint(cyan, machine+"$ "+command))
	for line := range strings.Lines(strings.TrimRight(string(out), "\n")) {
		t.printf("    %s", strings.TrimRight(line, "\n"))
	}
}

// Write makes the teller a place for progress messages.
func (t *teller) Write(p []byte) (int, error) {
	for lines := bufio.NewScanner(bytes.NewReader(p)); lines.Scan(); {
		t.say("%s", t.paint(dim, lines.Text()))
	}
	return len(p), nil
}
