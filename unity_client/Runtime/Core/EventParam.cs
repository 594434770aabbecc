using System;

namespace Everscene
{
    /// <summary>A parameter of an event: <c>new EventParam("intensity", 0.8f)</c>. Its value is a number, a flag or a text.</summary>
    public struct EventParam
    {
        enum Kind { Nil, Integer, Number, Flag, Text }

        readonly Kind kind;
        readonly long integer;
        readonly double number;
        readonly string text;

        public string Name { get; }

        public EventParam(string name, long value) : this(name, Kind.Integer, value, 0, null) { }

        public EventParam(string name, bool value) : this(name, Kind.Flag, value ? 1 : 0, 0, null) { }

        /// <summary>A choice or a text; null takes the scene's default.</summary>
        public EventParam(string name, string value) : this(name, value == null ? Kind.Nil : Kind.Text, 0, 0, value) { }

        /// <exception cref="ArgumentException">The number is not finite.</exception>
        public EventParam(string name, double value) : this(name, Kind.Number, 0, value, null)
        {
            if (double.IsNaN(value) || double.IsInfinity(value))
                throw new ArgumentException("param '" + name + "' must be finite, not " + value);
        }

        public EventParam(string name, float value) : this(name, Widen(value)) { }

        EventParam(string name, Kind kind, long integer, double number, string text)
        {
            Name = name;
            this.kind = kind;
            this.integer = integer;
            this.number = number;
            this.text = text;
        }

        internal void Write(MsgPackWriter writer)
        {
            writer.Text(Name);
            if (kind == Kind.Integer) writer.Integer(integer);
            else if (kind == Kind.Number) writer.Number(number);
            else if (kind == Kind.Flag) writer.Bool(integer != 0);
            else writer.Text(text);
        }

        // 0.8f should travel as 0.8, not as 0.800000011920929: decimal keeps the seven digits that a float means.
        static double Widen(float value) =>
            Math.Abs(value) < 1e9f && Math.Abs(value) > 1e-9f ? (double)(decimal)value : value;
    }
}
