// Package faultpoint names the steps of the node's work, so that the laboratory
// can end or hold the plugin right behind one. Only a build with the tag
// faultpoints has them; in every other one At is nothing, and not even the names
// are in the binary.
package faultpoint
