using System.Collections.Generic;

namespace Everscene
{
    /// <summary>Count, median, 95th percentile and greatest of the server's last 1,024 values.</summary>
    public struct Distribution
    {
        public long N;
        public double P50;
        public double P95;
        public double Max;

        internal static Distribution Read(ref MsgPackReader reader)
        {
            var d = new Distribution();
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("n")) d.N = reader.Integer();
                else if (key.Is("p50")) d.P50 = reader.Number();
                else if (key.Is("p95")) d.P95 = reader.Number();
                else if (key.Is("max")) d.Max = reader.Number();
                else reader.Skip();
            }
            return d;
        }
    }

    /// <summary>
    /// The server's own figures: those an inspector shows by name, every plain number under its name in the protocol
    /// (those of `inputs` as `inputs.accepted`), and the distributions (those of `stages_ms` as `stages_ms.decode`).
    /// </summary>
    public sealed class ServerStats
    {
        readonly Dictionary<string, double> numbers = new Dictionary<string, double>();
        readonly Dictionary<string, Distribution> distributions = new Dictionary<string, Distribution>();

        public string State { get; private set; } = "";
        public string Prompt { get; private set; } = "";
        public IReadOnlyDictionary<string, double> Numbers => numbers;
        public IReadOnlyDictionary<string, Distribution> Distributions => distributions;

        public double UptimeSeconds => Of("uptime_s");
        public double Fps => Of("fps");
        public double GenerationFps => Of("generation_fps");
        public double LeadMs => Of("lead_ms");
        /// <summary>Arrival of an event to the first frame published under it.</summary>
        public Distribution LatencyMs => DistributionOf("latency_ms");

        double Of(string name)
        {
            double value;
            return numbers.TryGetValue(name, out value) ? value : 0;
        }

        Distribution DistributionOf(string name)
        {
            Distribution value;
            return distributions.TryGetValue(name, out value) ? value : new Distribution();
        }

        internal static ServerStats Read(ref MsgPackReader reader, int pairs)
        {
            var stats = new ServerStats();
            for (; pairs > 0; pairs--)
            {
                string key = reader.Key().ToString();
                if (key == "state") stats.State = reader.TextOrNil() ?? "";
                else if (key == "prompt") stats.Prompt = reader.TextOrNil() ?? "";
                else if (key == "latency_ms" || key == "seen_ms") stats.distributions[key] = Distribution.Read(ref reader);
                else if (key == "stages_ms" || key == "inputs") stats.ReadGroup(ref reader, key);
                else stats.ReadNumber(ref reader, key);
            }
            return stats;
        }

        void ReadGroup(ref MsgPackReader reader, string group)
        {
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                string key = group + "." + reader.Key();
                if (group == "inputs") ReadNumber(ref reader, key);
                else distributions[key] = Distribution.Read(ref reader);
            }
        }

        // A later minor version may bring fields of any kind: what is no number is stepped over.
        void ReadNumber(ref MsgPackReader reader, string key)
        {
            if (reader.NextIsNumber) numbers[key] = reader.Number();
            else reader.Skip();
        }
    }
}
