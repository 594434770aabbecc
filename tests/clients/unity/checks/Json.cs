using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Everscene.Checks
{
    /// <summary>Writes values as one line of JSON, so that the Python side can compare them.</summary>
    static class Json
    {
        /// <summary>An object from name, value, name, value.</summary>
        public static string Line(params object[] pairs)
        {
            var map = new Dictionary<string, object>();
            for (int i = 0; i < pairs.Length; i += 2) map[(string)pairs[i]] = pairs[i + 1];
            return Of(map);
        }

        public static string Of(object value)
        {
            var text = new StringBuilder();
            Write(text, value);
            return text.ToString();
        }

        static void Write(StringBuilder text, object value)
        {
            if (value == null) text.Append("null");
            else if (value is bool) text.Append((bool)value ? "true" : "false");
            else if (value is string) WriteString(text, (string)value);
            else if (value is double) WriteNumber(text, (double)value);
            else if (value is IDictionary) WriteMap(text, (IDictionary)value);
            else if (value is IEnumerable) WriteList(text, (IEnumerable)value);
            else if (value is System.Enum) WriteString(text, value.ToString());
            else text.Append(System.Convert.ToString(value, CultureInfo.InvariantCulture));
        }

        static void WriteNumber(StringBuilder text, double value)
        {
            if (double.IsNaN(value)) text.Append("null");
            else text.Append(value.ToString("R", CultureInfo.InvariantCulture));
        }

        static void WriteMap(StringBuilder text, IDictionary map)
        {
            text.Append('{');
            foreach (DictionaryEntry entry in map)
            {
                if (text[text.Length - 1] != '{') text.Append(',');
                WriteString(text, (string)entry.Key);
                text.Append(':');
                Write(text, entry.Value);
            }
            text.Append('}');
        }

        static void WriteList(StringBuilder text, IEnumerable list)
        {
            bool first = true;
            text.Append('[');
            foreach (object item in list)
            {
                if (!first) text.Append(',');
                first = false;
                Write(text, item);
            }
            text.Append(']');
        }

        static void WriteString(StringBuilder text, string value)
        {
            text.Append('"');
            foreach (char c in value)
                if (c == '"' || c == '\\') text.Append('\\').Append(c);
                else if (c < 0x20 || c > 0x7E) text.Append("\\u").Append(((int)c).ToString("x4"));
                else text.Append(c);
            text.Append('"');
        }
    }
}
